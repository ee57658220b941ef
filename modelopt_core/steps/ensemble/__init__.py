"""Ensembles: several models answer the same question, and a rule makes one answer of theirs.

rules.py says how answers are combined, weights.py finds the best weights, diversity.py tells whether the members differ
enough to be worth their cost, ensemble.py builds the module.
"""

from modelopt_core.steps.ensemble.diversity import (
    Diversity,
    diversity,
    doubtful,
    leave_one_out,
    shares_added,
    uncertainty,
)
from modelopt_core.steps.ensemble.ensemble import Ensemble
from modelopt_core.steps.ensemble.rules import RULES
from modelopt_core.steps.ensemble.weights import Solved, best_weights, greedy_weights, judged

__all__ = [
    "RULES",
    "Diversity",
    "Ensemble",
    "Solved",
    "best_weights",
    "diversity",
    "doubtful",
    "greedy_weights",
    "judged",
    "leave_one_out",
    "shares_added",
    "uncertainty",
]
