"""Pruning: remove what matters least.

A criterion scores every weight; the lowest `ratio` of them go. Removing single weights leaves a mask of zeros, which
makes the file smaller and nothing faster. Removing whole channels leaves a smaller dense network, which is both.

`criteria` says what counts as important, `stats` gathers what criteria look at, `scores` brings the two together,
`masks` zeroes weights and `cuts` takes channels out, at once or in `rounds`, `prune` is the technique as data.
`channel_units` says what can be pruned by itself, `layer_sensitivity` asks what each of those can spare, `contest`
sets the criteria against each other, `what_went` looks into one layer.
"""

from modelopt_core.steps.prune.channel_units import Unit, units
from modelopt_core.steps.prune.contest import Cell, Duel, Spread, contest, duels, entrants, spreads
from modelopt_core.steps.prune.criteria import CRITERIA, Stats
from modelopt_core.steps.prune.cuts import Left, prune_channels
from modelopt_core.steps.prune.layer_sensitivity import Sensitivity, sensitivity
from modelopt_core.steps.prune.masks import Plan, prune_weights
from modelopt_core.steps.prune.prune import Prune
from modelopt_core.steps.prune.scores import Scorer
from modelopt_core.steps.prune.what_went import Reveal, reveal

__all__ = [
    "CRITERIA", "Cell", "Duel", "Left", "Plan", "Prune", "Reveal", "Scorer", "Sensitivity", "Spread", "Stats", "Unit",
    "contest", "duels", "entrants", "prune_channels", "prune_weights", "reveal", "sensitivity", "spreads", "units",
]  # fmt: skip
