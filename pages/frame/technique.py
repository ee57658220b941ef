"""What a technique page has of its own; technique_page.py draws the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.base import Step
from modelopt_core.tasks.statistics import Estimate
from pages.frame import guess
from pages.state import bench, controls
from pages.state import knob as handles
from pages.state import pool as pools
from pages.state.setting import Setting
from pages.tabs import examples, layer_table
from pages.work import trial as trials


@dataclass(frozen=True)
class Technique:
    """What one page has of its own.

    step: the step class; knob: the field that the Dial turns; question: what Learn asks; bars: which of layer_table's
    columns shows the effect of a setting; note: an honest word on speed for a setting, empty where there is none;
    labels: names of choices on the screen where they differ from the core's; aside: fields behind a button; idle: those
    that mean nothing to what the session holds; shown: examples of val as HTML, where more is to be seen of them; tabs:
    title → what draws a tab of the page's own while it is open; always: such tabs that need no measured setting;
    order: of Layers and these, if not as they come; settle: makes what the session holds fit the bench; strip: what
    stands below the Dial in every view, unless Learn still asks; reference: a score that the curve is compared with;
    pool: workload → the models that a step of several begins with; turn: what the Dial turns where that is no field;
    extra: names in the link beside the step's fields; learn: what is to be guessed; choose: draws the choice
    of what the step works on, where that is neither the bench's model nor a list of members; on: the bench with the
    inputs or the model that the page measures on, if not as they are.
    """

    step: type[Step]
    knob: str
    question: str
    note: Callable[[Any, Measurement], str]
    bars: Callable[[Any], layer_table.Bars] = lambda _: layer_table.WEIGHTS
    unit: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    idle: Callable[[bench.Bench], Collection[str]] = lambda _: ()
    shown: examples.Shown = examples.plain
    tabs: Mapping[str, Callable[[trials.Trial], None]] = field(default_factory=dict)
    always: Mapping[str, Callable[[Setting], None]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    settle: Callable[[bench.Bench], None] = lambda _: None
    strip: Callable[[Setting], None] | None = None
    reference: Callable[[Setting], tuple[Estimate, str] | None] = lambda _: None
    pool: pools.Defaults | None = None
    turn: Callable[[Any, bench.Bench], handles.Handle] | None = None
    extra: tuple[str, ...] = ()
    learn: guess.Kind = guess.BREAKS
    choose: Callable[[str, bench.Bench], None] | None = None
    on: Callable[[bench.Bench], bench.Bench] = lambda here: here

    @property
    def name(self) -> str:
        """The step's name, which is the page's: keys in the session begin with it."""
        return self.step.__name__

    @property
    def fields(self) -> dict[str, str]:
        """Name in the link → key in the session, of all that the page's state is made of."""
        extra = (*self.extra, *(["members"] if self.pool else []))
        return {**controls.keys(self.step), **{name: f"{self.name}.{name}" for name in extra}}

    def handle(self, here: bench.Bench) -> handles.Handle:
        """What the Dial turns, at what the session holds."""
        step = controls.current(self.step)
        return self.turn(step, here) if self.turn else handles.of_field(step, self.knob)

    def setting(self, here: bench.Bench) -> Setting:
        """What the session holds, not yet measured."""
        members = pools.current(self.name, here) if self.pool else ()
        return Setting(self.on(here), controls.current(self.step), members=members)
