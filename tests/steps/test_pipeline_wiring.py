"""Every sentence about a pipeline that does not fit together: stages, models, a damaged file's plan."""

from __future__ import annotations

import pytest

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.models.composite import compose
from modelopt_core.workloads.workload import Workload


@pytest.fixture(scope="module")
def w() -> Workload:
    return mo.workload("digits")


@pytest.mark.parametrize(
    ("stages", "models", "text"),
    [
        ((), "cnn mlp", "Pipeline has no stages; name at least 2, such as groups and experts"),
        (("digit",), "cnn", "Pipeline has one stage, 'digit', which is a model by itself; name at least 2"),
        (("groups", "groups"), "cnn mlp", "Pipeline has the stage 'groups' twice; name it once"),
        (("groups", "expert"), "cnn mlp", r"unknown subtask of digits 'expert' \(did you mean 'experts'\?\); choose"),
        (
            ("groups", "digit"),
            "cnn mlp",
            ("stage 'groups' gives sorted image, stage 'digit' takes image; choose one that takes sorted "
            "image: experts"),
        ),
        (
            ("quality", "digit"),
            "quality cnn",
            ("stage 'quality' gives graded image, stage 'digit' takes image; choose one that takes graded "
            "image: repair"),
        ),
        (
            ("experts", "digit"),
            "cnn mlp",
            ("the workload gives image, stage 'experts' takes sorted image; choose one that takes image: "
            "groups or quality or digit"),
        ),
        (
            ("quality", "repair"),
            "quality repair",
            "the last stage 'repair' gives image, a pipeline must give label; add a stage that takes image: groups or",
        ),
        (
            ("groups", "experts"),
            "groups expert-1 expert-2",
            ("Pipeline of groups, experts needs 4 models, one a stage and group, or 2 if one answers for all groups; "
            "the pool has 3: the model of 'experts/3 5 9' is missing, add it"),
        ),
        (("groups", "experts"), "cnn cnn cnn cnn cnn", "the pool has 5: take 1 away"),
        (("groups", "experts"), "cnn expert-1", "the model of stage 'experts' answers with 4 classes, the stage has"),
        (
            ("groups", "experts"),
            "groups expert-1 expert-1 expert-3",
            "the model of stage 'experts/1 2 7' answers with 4 classes, the stage has 3 or 10; choose a model",
        ),
        (
            ("quality", "repair", "digit"),
            "cnn repair cnn",
            "the model of stage 'quality' answers with 10 classes, the stage has 2; choose a model of digits for it",
        ),
        (
            ("quality", "repair", "digit"),
            "quality mlp cnn",
            "the model of stage 'repair' puts out 10 numbers, an image has 64; choose a model that gives image",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(w: Workload, stages: tuple[str, ...], models: str, text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        mo.Pipeline(stages=stages).apply([mo.baseline("digits", name) for name in models.split()], w)


def test_another_workloads_model(w: Workload) -> None:
    pool = [mo.baseline("mnist", "mlp30"), mo.baseline("digits", "cnn")]
    with pytest.raises(
        ModelOptError, match=r"the model of stage 'groups' does not take inputs \(1, 8, 8\) .*; choose a"
    ):
        mo.Pipeline().apply(pool, w)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ("[", "a pipeline's plan is not what this program writes"),
        ("[1]", "a pipeline's plan is not what this program writes"),
        ('[["a","answer",[5],[]]]', "a pipeline's plan is not what this program writes .*'a' has models"),
        ('[["a","answr",[0],[]]]', "unknown kind of subtask 'answr'"),
        ('[["a","judge",[0],[]]]', "a pipeline ends with the one stage that answers; its stages are judge"),
        ('[["a","route",[0],[[0],[1]]],["m","map",[1],[]],["b","answer",[1],[]]]', "is followed by the experts"),
        ('[["a","route",[0],[[0],[1]]],["b","answer",[1],[]]]', "'a' sorts into other groups than 'b' answers for"),
        ("[]", "a pipeline ends with the one stage that answers"),
    ],
)
def test_a_plan_from_a_file(plan: str, text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        compose("pipeline", [mo.baseline("digits", "mlp")] * 2, plan=plan)
