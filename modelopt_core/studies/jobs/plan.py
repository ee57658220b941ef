"""What a job is to do: `job.json` in its folder, and the checks on what comes back out of a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Progress
from modelopt_core.studies.jobs.grid import Grid
from modelopt_core.studies.jobs.journal import size_bytes
from modelopt_core.studies.jobs.pairs import Pair

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.steps.base import Step

T = TypeVar("T")
FILE = "job.json"
MAX_BYTES = 2**20
MAX_SEED = 2**63 - 1  # what a torch.Generator takes
MODEL_FILE = re.compile(r"([0-9a-f]{64}|best)\.mopt")  # <key of the model>, or its role


class JobError(ModelOptError):
    """No such job, or a job folder that is not what `jobs.start` and the job's process wrote."""


class Plan(BaseModel):
    """models: zoo names of the workload, or `.mopt` files in the job's folder; owner: sha256 of the owner's token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    owner: str = Field(pattern=r"^[0-9a-f]{64}$")  # a hash: the folder gives nobody's token away
    created_s: float
    recipe: dict[str, Any]
    models: tuple[str, ...] = Field(min_length=1, max_length=1000)
    workload: str
    split: str = "val"
    runtime: str = "onnx"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    threads: int | None = Field(None, ge=1, le=1024)
    about: str = Field("", max_length=100_000)
    grid: Grid | None = None  # measure the recipe's one step at these values of a knob, instead of running the recipe
    pair: Pair | None = None  # make the recipe's one step and another, in turns


def make(**values: Any) -> Plan:
    """A plan, or one sentence about the first value that is not allowed."""
    try:
        return Plan(**values)
    except ValidationError as error:
        raise JobError(f"a job cannot be started: {_sentence(error)}") from None


def read(folder: Path) -> Plan:
    """The plan in a job's folder."""
    path = folder / FILE
    try:
        if (size := size_bytes(path)) > MAX_BYTES:
            raise JobError(f"it has {size:,} bytes")
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ModelOptError, ValidationError) as error:
        reason = _sentence(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
        raise JobError(f"{str(path)!r} is not the plan of a job ({reason}); remove its folder") from None


def built(cls: type[T], values: object) -> T:
    """A frozen dataclass from JSON, its types checked."""
    try:
        found: T = _adapter(cast(Any, cls)).validate_python(values)
        return found
    except ValidationError as error:
        raise JobError(f"an event of the job is damaged ({_sentence(error)}); start the job again") from None


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def progress(event: Mapping[str, Any]) -> Progress:
    """The Progress that an event tells of."""
    try:
        values = {str(name): float(value) for name, value in event["values"].items()}
        return Progress(str(event["phase"]), int(event["step"]), int(event["total"]), values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise JobError(
            f"an event of the job is damaged ({type(error).__name__}: {error}); start the job again"
        ) from None


def model_file(folder: Path, name: object) -> Path:
    """The path of a model of the job; a name that no job writes is refused."""
    if not isinstance(name, str) or not MODEL_FILE.fullmatch(name):
        raise JobError(f"the job names a model file {str(name)[:80]!r} that no job writes; start the job again")
    return folder / name


def result(path: Path) -> nn.Module:
    """The model in a job's folder, with what is known of it beside its weights."""
    from modelopt_core.files import mopt
    from modelopt_core.models import notes

    model, beside = mopt.load(path), path.with_suffix(notes.SUFFIX)
    if beside.is_file():
        notes.unpack(model, beside.read_bytes())
    return model


def recipe(steps: Sequence[Step]) -> dict[str, Any]:
    """The steps as job.json holds them."""
    from modelopt_core.steps.recipe import to_json

    found: dict[str, Any] = json.loads(to_json(steps))
    return found


def hashed(owner: str) -> str:
    """What a folder may know of its owner's token."""
    return hashlib.sha256(owner.encode()).hexdigest()


def number(value: object) -> float:
    """A number as it is; 0 for what is none."""
    return float(value) if isinstance(value, int | float) else 0.0


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}={str(first['input'])[:80]}: {first['msg']}"
