"""Subtasks: the jobs that a pipeline's stages do, each with what it takes, what it gives and labels of its own.

A subtask is data that a workload declares; subtask_data.py makes a workload of it, so that its model is trained,
measured and compressed as any other is.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelopt_core.errors import ModelOptError, unknown

KINDS = {
    "judge": "says whether an input is damaged",
    "map": "makes another input of it: repaired, or a region of it",
    "route": "says to which group of labels it belongs",
    "answer": "gives the label: one model for all, or an expert for each group",
}


@dataclass(frozen=True)
class Subtask:
    """One job. takes, gives: types by name, which decide what may follow what.

    labels: what its model answers with, for people; groups: of a route and of experts, indices of the workload's
    labels, every label in one group; models: zoo names of those that come with the project, as many as it needs;
    meets: how the inputs are altered that it is made for, see damage.py.
    """

    name: str
    kind: str
    takes: str
    gives: str
    about: str
    labels: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    models: tuple[str, ...] = ()
    meets: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of subtask", self.kind, KINDS)
        if self.kind == "route" and not self.groups:
            raise ModelOptError(f"subtask {self.name!r} sends inputs to groups and names none; give it groups")
        together = sorted(label for group in self.groups for label in group)
        if together != list(range(len(together))):
            raise ModelOptError(
                f"subtask {self.name!r} must have every label in one group; its groups are {self.groups}"
            )

    @property
    def experts(self) -> int:
        """How many models it has where each group has its own, 1 where there are no groups to tell apart."""
        return len(self.groups) if self.kind == "answer" and self.groups else 1

    def label_of(self, group: int) -> str:
        """What a group is called."""
        return self.labels[group] if self.labels else str(group + 1)


def sorting(
    takes: str, labels: tuple[str, ...], groups: tuple[tuple[int, ...], ...], about: str
) -> tuple[Subtask, Subtask]:
    """The two subtasks of every grouping: `groups`, which sorts, and `experts`, who answer within their group.

    takes: the workload's type of input; labels: the workload's. Their models are `groups` and `expert-1` … in the zoo.
    """
    names = tuple(" ".join(labels[i] for i in group) for group in groups)
    experts = tuple(f"expert-{i + 1}" for i in range(len(groups)))
    given = f"sorted {takes}"
    return (
        Subtask("groups", "route", takes, given, about, names, groups, ("groups",)),
        Subtask("experts", "answer", given, "label", "Answers within the group.", names, groups, experts),
    )


def repairing(kind: str) -> tuple[Subtask, Subtask]:
    """The two subtasks in front of a reader that meets damaged inputs: `quality` notices them, `repair` mends them."""
    graded = f"graded {kind}"
    return (
        Subtask("quality", "judge", kind, graded, "Is it damaged?", ("sound", "damaged"), (), ("quality",), "damage"),
        Subtask(
            "repair", "map", graded, kind, "Takes the noise out of what is damaged.", (), (), ("repair",), "damage"
        ),
    )


def locating(kind: str) -> Subtask:
    """The subtask in front of a reader that meets small inputs anywhere in a picture: `locate` finds and cuts out."""
    about = "Finds the box that it is in; what lies there is handed on, as large as the picture."
    return Subtask("locate", "map", kind, kind, about, (), (), ("locate",), "scatter")
