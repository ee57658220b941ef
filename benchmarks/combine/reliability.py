"""Calibration: one temperature, fitted on val, for models as they are and compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as distributions
from torch import nn

import modelopt_core as mo
from benchmarks.checkpoints import trained
from modelopt_core.tasks.calibration import ece, fit_temperature, tempered
from modelopt_core.workloads.workload import Workload

SHIPPED = ("mnist/lenet5", "mnist/lenet300", "mnist/mlp30", "mnist/mlp1200", "mnist/article", "digits/mlp",
           "docstrings/bag", "docstrings/textcnn")  # fmt: skip
RECIPES = ("mnist/lenet5", "mnist/lenet300", "digits/mlp", "digits/cnn", "docstrings/bag", "docstrings/textcnn")
SEEDS, RESAMPLES, FIXED = 5, 500, 15
ASKED = 0.01  # of the calibration error: below, a temperature need not mend anything


@dataclass(frozen=True, eq=False)
class Tempered:
    """One model on test. errors, fixed: ECE before and after the temperature (2,), in the usual bins and in FIXED ones;
    chance (R,): before, of R draws of answers that are right exactly as often as the model says; gains: on resamples.
    """

    errors: NDArray[np.float64]
    fixed: NDArray[np.float64]
    temperature: float
    chance: NDArray[np.float64]
    gains: NDArray[np.float64]


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Calibration: ECE on test, bins of equal mass; the temperature is fitted on val\n\nAs many bins as the cube "
        f"root of the examples (7, 10 and 22); beside them {FIXED} bins for all, as it was before. By chance: 95 % of "
        "draws lie below it when a model is right exactly as often as it says (consistency resampling, Vaicenavicius "
        "et al. 2019); what is not above it needs no mending. Points gained with a 95 % interval: over the seeds (t), "
        f"or over {RESAMPLES} resamples of the test examples where there is one model. Lower: asked where ECE is above "
        "1 %; of several seeds the mean, and in how many of them.\n"
    )
    heads = ("model", "variant", "ECE", "by chance", "at the temperature", "temperature", "points gained", "lower")
    yield f"| {' | '.join(heads)} | {FIXED} bins: ECE | at the temperature | lower |"
    yield "|---|---|--:|--:|--:|--:|--:|---|--:|--:|---|"
    for name in SHIPPED:
        workload, model = name.split("/")
        yield from calibration_rows(f"{name}, shipped", mo.workload(workload), [mo.baseline(workload, model)])
    for name in RECIPES:
        pool = [trained(name, seed) for seed in range(SEEDS)]
        yield from calibration_rows(f"{name}, {SEEDS} seeds", mo.workload(name.split("/")[0]), pool)


def calibration_rows(name: str, w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """ECE on test before and after a temperature fitted on val, of models as they are and compressed."""
    variants: dict[str, Callable[[nn.Module], nn.Module]] = {
        "as it is": lambda model: model,
        "4 bits": lambda model: mo.Quantize(bits=4).apply(model, w),
        "90 % pruned": lambda model: mo.Prune(ratio=0.9, granularity="weight").apply(model, w),
    }
    for how, make in variants.items():
        found = [_tempered(w, make(model), RESAMPLES if len(pool) == 1 else 0) for model in pool]
        errors, fixed = (np.array(rows) for rows in ([one.errors for one in found], [one.fixed for one in found]))
        gain = errors[:, 0] - errors[:, 1]  # (S,)
        if len(pool) > 1:
            half = distributions.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            low, high = gain.mean() - half, gain.mean() + half
        else:
            low, high = np.percentile(found[0].gains, [2.5, 97.5])
        temperature, draws = np.mean([one.temperature for one in found]), np.mean([one.chance for one in found], axis=0)
        chance = np.quantile(draws, 0.95)
        gained = f"{100 * gain.mean():+.2f} ({100 * low:+.2f} – {100 * high:+.2f})"
        lower = _lower(errors) + ("; by chance" if ASKED < errors[:, 0].mean() <= chance else "")
        before, after = _told(errors)
        cells = [name, how, before, f"{chance:.2%}", after, f"{temperature:.2f}", gained, lower]
        cells += [*_told(fixed), _lower(fixed)]
        yield f"| {' | '.join(cells)} |"


def _told(errors: NDArray[np.float64]) -> list[str]:
    """(S, 2) -> the means."""
    return [f"{value:.2%}" for value in errors.mean(axis=0)]


def _lower(errors: NDArray[np.float64]) -> str:
    """(S, 2) before and after -> is the mean lower, where that is asked, and in how many rows it is."""
    before, after = errors.mean(axis=0)
    if before <= ASKED:
        return ""
    said = "yes" if after < before else "no"
    return said if len(errors) == 1 else f"{said}, {(errors[:, 1] < errors[:, 0]).sum()} of {len(errors)}"


def _tempered(w: Workload, model: nn.Module, resamples: int) -> Tempered:
    val, test = (mo.predictions(model, w, split).outputs.log_probabilities for split in ("val", "test"))
    temperature = fit_temperature(val, w.val.targets)
    right = (test.argmax(1) == w.test.targets).float()
    sure = [tempered(test, t).amax(1).exp() for t in (1.0, temperature)]
    draw = torch.Generator().manual_seed(0)
    places = [torch.randint(len(right), (len(right),), generator=draw) for _ in range(resamples)]
    lucky = (torch.rand(RESAMPLES, len(right), generator=draw) < sure[0]).float()
    return Tempered(
        np.array([ece(one, right) for one in sure]),
        np.array([ece(one, right, FIXED) for one in sure]),
        temperature,
        np.array([ece(sure[0], each) for each in lucky]),
        np.array([ece(sure[0][at], right[at]) - ece(sure[1][at], right[at]) for at in places]),
    )
