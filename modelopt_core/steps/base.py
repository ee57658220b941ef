"""A step is frozen data that says what to do; applying it never touches its input.

One `Field(...)` line per parameter gives its bounds, error text, widget, JSON, JSON Schema and help. A step that
transforms one model derives from `Transform`, one that makes several models one derives from `Combine`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import nn

from modelopt_core.machine.cache import STORE
from modelopt_core.machine.digest import CODE_VERSION, digest
from modelopt_core.machine.events import Note, NotesApart, Report, silent
from modelopt_core.machine.registry import Registry
from modelopt_core.models import identity, notes, sound
from modelopt_core.steps.fields import Fields
from modelopt_core.steps.fields import Knob as Knob
from modelopt_core.steps.fields import ModelName as ModelName
from modelopt_core.steps.fields import Named as Named
from modelopt_core.steps.fields import When as When
from modelopt_core.workloads.workload import Workload

MODULE_BYTES = 3500  # of a module beside its tensors: Python objects
STEPS: Registry[Callable[..., Step]] = Registry("step")


class Step(Fields):
    """What is done with models, as data. Subclasses register in STEPS under their class name."""

    def lasts(self, workload: Workload) -> bool:
        """Does it take over a second to apply (a training, a calibration)? Pages run such a step as a job."""
        return False

    def check(self, models: Sequence[nn.Module], workload: Workload) -> None:
        """ModelOptError where it is plain at once that it can't be applied to these; nothing is computed."""

    @property
    def lasting(self) -> Self:
        """What of it takes long: with the result of that at hand, applying the step is quick. All of it, for most."""
        return self

    @property
    def beside(self) -> Self | None:
        """What pages make along with it and always show beside it: the same without what it is for. None for most."""
        return None

    def key(self, models: Sequence[nn.Module], workload: Workload, seed: int = 0) -> str:
        """sha256 of the result: of the inputs' keys, this step as JSON, the data, the seed and the code version."""
        recipe = f"{self.name}{self.model_dump_json()}"
        keys = [identity.key(model) for model in models]
        return digest(*keys, recipe, workload.data_hash, seed, CODE_VERSION)

    def _kept(
        self,
        models: Sequence[nn.Module],
        workload: Workload,
        make: Callable[[torch.Generator, Report], nn.Module],
        seed: int,
        report: Report,
    ) -> nn.Module:
        """The result of these models, made if it is not at hand; its notes are reported in either case."""
        key = self.key(models, workload, seed)

        def stamped() -> nn.Module:
            heard = NotesApart(report)
            with torch.no_grad():
                result = make(torch.Generator().manual_seed(seed), heard)
            result.__dict__["notes"] = tuple(heard.notes)
            identity.stamp(result.eval(), key)
            sound.made(result, self.name, models)
            return result

        result = STORE.get(("model", key), stamped, _size_bytes, identity.intact)
        for note in result.__dict__.get("notes", ()):
            report(note)
        return result


class Transform(Step):
    """A step from one model to another."""

    def apply(self, model: nn.Module, workload: Workload, *, seed: int = 0, report: Report = silent) -> nn.Module:
        """A new model in eval mode; `model` is bit-identical to before. The same seed gives the same result.

        Results are kept: the same step on the same model is not computed twice. Treat the result as read-only, or copy
        it; one that was written to is noticed and made again. Notes are reported every time, with a kept result too.
        ModelOptError where the model, or what would come out, holds numbers that are not finite.
        """
        sound.check(model, f"the model of {self.name}")
        sound.answering(model, workload)

        def make(generator: torch.Generator, heard: Report) -> nn.Module:
            return self.transform(identity.clone(model), workload, generator, heard)

        return self._kept([model], workload, make, seed, report)

    @abstractmethod
    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        """The technique itself. `model` is a private copy: change it or return another. Runs without gradients."""


class Combine(Step):
    """A step from several models to one."""

    @abstractmethod
    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        """The technique itself, over private copies of the pool."""

    def apply(
        self, models: Sequence[nn.Module], workload: Workload, *, seed: int = 0, report: Report = silent
    ) -> nn.Module:
        """One new model in eval mode; the pool is bit-identical to before. Kept and seeded as a Transform's result."""
        sound.pool(models, self.name)

        def make(generator: torch.Generator, heard: Report) -> nn.Module:
            return self.combine([identity.clone(model) for model in models], workload, generator, heard)

        return self._kept(models, workload, make, seed, report)


def keep(model: nn.Module, key: str, notes: Sequence[Note] = ()) -> None:
    """Put a result that was made elsewhere, as by a job, where `Transform.apply` looks before it computes.

    key: what `step.key(…)` says of it. notes: what was reported when it was made.
    """
    model.__dict__["notes"] = tuple(notes)
    STORE.get(("model", key), lambda: identity.stamp(model.eval(), key), _size_bytes, identity.intact)


def kept(key: str) -> bool:
    """Is the result with this key at hand, so that `Transform.apply` computes nothing?"""
    found = STORE.peek(("model", key))
    return found is not None and identity.intact(found)


def _size_bytes(model: nn.Module) -> int:
    noted = [t for m in model.modules() for found in m.__dict__.get(notes.NOTES, {}).values() for t in found.values()]
    tensors = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *noted])
    return tensors + MODULE_BYTES * sum(1 for _ in model.modules())
