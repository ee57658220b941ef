"""Mutants that were on the list, each with the reason why it is not any more: no test can tell them from the code."""

from benchmarks.mutants.trial import Mutant

# fmt: off
REMOVED: tuple[tuple[Mutant, str], ...] = (
    (Mutant("steps.prune.masks:n_of_m", "-width % m", "m - width % m", "tests/steps/test_prune_masks.py"),
     "a whole run more of padding is cut off again: the same answer"),
    (Mutant("steps.prune.cuts:prune_channels", "not g.frozen and plan.of(g.name) > 0", "not g.frozen",
            "tests/steps/test_prune.py"),
     "of a ratio of 0 nothing goes anyway: this only saves scoring"),
    (Mutant("steps.quantize.gptq:BLOCK", "32", "64", "tests/steps/test_quantize_data.py"),
     "how many columns lie in a block changes the speed and, but for rounding, no code"),
    (Mutant("steps.quantize.mixed:allocate", "rest + s.size <= budget_bytes", "True",
            "tests/steps/test_quantize_mixed.py"),
     "every state is applied and its file counted before it is taken: this only saves trying"),
)
