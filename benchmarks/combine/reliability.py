"""Calibration: one temperature, fitted on val, for models as they are and compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy import stats as distributions
from torch import nn

import modelopt_core as mo
from modelopt_core.calibration import ece, fit_temperature, tempered
from modelopt_core.models import build
from modelopt_core.train import fit
from modelopt_core.workload import Workload
from modelopt_core.zoo import ZOO

NAMES = ("mnist/lenet5", "mnist/lenet300", "mnist/mlp30", "mnist/mlp1200", "mnist/article", "digits/mlp",
         "docstrings/bag", "docstrings/textcnn")  # fmt: skip
SEEDS, RESAMPLES = 5, 500


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Calibration: ECE on test, 15 bins of equal mass; the temperature is fitted on val\n\nPoints gained with a "
        f"95 % interval: over the seeds (t), or over {RESAMPLES} resamples of the test examples where there is one "
        "model. Lower: asked where ECE is above 1 %.\n"
    )
    yield "| model | variant | ECE | at the temperature | temperature | points gained | lower |"
    yield "|---|---|--:|--:|--:|--:|---|"
    for name in NAMES:
        yield from calibration_rows(name, mo.workload(name.split("/")[0]), [mo.baseline(*name.split("/"))])
    yield from calibration_rows(f"digits/cnn, {SEEDS} seeds", mo.workload("digits"), trained())


def calibration_rows(name: str, w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """ECE on test before and after a temperature fitted on val, of models as they are and compressed."""
    variants: dict[str, Callable[[nn.Module], nn.Module]] = {
        "as it is": lambda model: model,
        "4 bits": lambda model: mo.Quantize(bits=4).apply(model, w),
        "90 % pruned": lambda model: mo.Prune(ratio=0.9, granularity="weight").apply(model, w),
    }
    for how, make in variants.items():
        measured = [_ece(w, make(model)) for model in pool]
        before, after, temperature = np.mean([one[:3] for one in measured], axis=0)
        if len(pool) > 1:
            gain = np.array([one[0] - one[1] for one in measured])
            half = distributions.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            low, high = gain.mean() - half, gain.mean() + half
        else:
            low, high = np.percentile(measured[0][3], [2.5, 97.5])
        lower = "" if before <= 0.01 else "yes" if after < before else "no"
        gained = f"{100 * (before - after):+.2f} ({100 * low:+.2f} – {100 * high:+.2f})"
        yield f"| {name} | {how} | {before:.2%} | {after:.2%} | {temperature:.2f} | {gained} | {lower} |"


def _ece(w: Workload, model: nn.Module) -> tuple[float, float, float, list[float]]:
    """ECE before and after, the temperature, and what it gains on resamples of the test split."""
    val, test = (mo.predictions(model, w, split).outputs.log_probabilities for split in ("val", "test"))
    temperature = fit_temperature(val, w.val.targets)
    right = (test.argmax(1) == w.test.targets).float()
    sure = [tempered(test, t).amax(1).exp() for t in (1.0, temperature)]
    before, after = (ece(one, right) for one in sure)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(len(right), (len(right),), generator=generator) for _ in range(RESAMPLES)]
    return before, after, temperature, [ece(sure[0][at], right[at]) - ece(sure[1][at], right[at]) for at in draws]


def trained() -> list[nn.Module]:
    """The CNN recipe of the digits, from five seeds."""
    recipe, w = ZOO["digits/cnn"], mo.workload("digits")
    how = {"epochs": recipe.epochs, "lr": recipe.lr, "weight_decay": recipe.weight_decay, "augment": recipe.augment}
    return [fit(build(recipe.spec, seed), w, seed=seed, **how) for seed in range(SEEDS)]  # type: ignore[arg-type]
