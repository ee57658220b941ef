"""The walk over a traced graph that finds where each channel goes (the mechanics of channels.py).

walk.py runs the graph once on an example and keeps, beside every tensor, its `Space`: which channel lies where.
rules.py says, in one table, what each operator does to channels. couplings.py collects who makes, reads and carries
each channel, which channels must go together, and which must stay.
"""

from modelopt_core.structure.graph.group import Group as Group
from modelopt_core.structure.graph.group import Member as Member
from modelopt_core.structure.graph.walk import Walk as Walk
