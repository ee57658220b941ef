"""The shipped schema says what the steps say, and says it before PyTorch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import modelopt_core as mo
from modelopt_core.machine.folders import asset_path
from modelopt_core.steps import schema
from tests.waiting import LIMIT_S

SHIPPED = json.loads(asset_path(schema.NAME).read_text("utf-8"))
BAD = [
    '{"steps": [\n',
    '{"version": 2, "steps": []}',
    '{"steps": [{"step": "Prun"}]}',
    '{"steps": [{"step": "Prune",\n "ratio": 1.5}]}',
    '{"steps": [{"step": "Prune", "ratio": "half", "rounds": 1.5}]}',
    '{"steps": [{"step": "Prune", "rounds": true}]}',
    '{"steps": [{"step": "Prune", "criterion": "l3"}]}',
    '{"steps": [{"step": "Prune", "criterion": "fpgm", "granularity": "weight"}]}',
    '{"steps": [{"step": "Prune", "granularity": "row"}]}',
    '{"steps": [{"step": "Prune", "ration": 0.5}]}',
    '{"steps": [{"step": "Prune", "ratios": {"conv1": 1}}]}',
    '{"steps": [{"step": "Prune", "ratios": [["a", 0.1], ["a", 0.2]]}]}',
    '{"steps": [{"step": "Prune", "ratios": [["a", 0.1, 3]]}]}',
    '{"steps": [{"step": "Prune", "frozen": "conv1"}]}',
    '{"steps": [{"step": "Quantize", "bits": 12}]}',
    '{"steps": [{"step": "Quantize", "activations": 1}]}',
    '{"steps": [{"step": "Quantize", "layer_bits": {"conv1": 9}}]}',
    '{"steps": [{"step": "Quantize", "observer": "absmin"}, {"step": "Prune"}]}',
    '{"steps": [{"step": "Distill", "temperature": 0, "student": ""}]}',
    '{"steps": [{"step": "Distill", "loss": "k1"}]}',
    '{"steps": [{"step": "Finetune", "lr": NaN, "epochs": 0}]}',
    '{"steps": [{"step": "Ensemble", "weights": [0, 0]}]}',
    '{"steps": [{"step": "Ensemble", "weights": [1, "x"]}]}',
    '{"steps": [{"step": "Cascade", "thresholds": [2]}]}',
    '{"steps": [{"step": "Cascade", "exits": ["a", 1]}]}',
    '{"steps": [{"step": "Pipeline", "stages": ["experts"]}]}',
    '{"steps": [{"step": "Fuse", "merge": "mean", "strengths": [-1]}]}',
]


def test_it_is_the_steps_own() -> None:
    assert schema.current() == SHIPPED, "write it again: python -m modelopt_core.steps.schema"


@pytest.mark.parametrize("text", BAD)
def test_both_ways_say_the_same(text: str) -> None:
    with pytest.raises(mo.ModelOptError) as late:
        mo.from_json(text)
    with pytest.raises(mo.ModelOptError) as early:
        schema.check(text)
    assert str(early.value) == str(late.value)


def test_what_is_a_recipe_passes() -> None:
    whole = [entry.function() for entry in mo.STEPS.values()]
    changed = [mo.Prune(ratios={"a": 0.5}, frozen=("b", "a")), mo.Quantize(bits=16, layer_bits={"a": 32}, group=64)]
    schema.check(mo.to_json([*whole, *changed]))


def test_a_schema_older_than_the_source_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "source", lambda: "newer")
    for text in BAD:
        schema.check(text)


def test_an_editor_can_use_it() -> None:
    """Every step, its required name, and no other field: by the letter of JSON Schema."""
    assert SHIPPED["additionalProperties"] is False
    steps = SHIPPED["properties"]["steps"]["items"]["oneOf"]
    assert [one["properties"]["step"]["const"] for one in steps] == sorted(mo.STEPS)
    assert all(one["additionalProperties"] is False and one["required"] == ["step"] for one in steps)
    prune = next(one for one in steps if one["title"] == "Prune")["properties"]
    assert (prune["ratio"]["minimum"], prune["ratio"]["exclusiveMaximum"]) == (0, 1)
    assert prune["criterion"]["enum"] == sorted(mo.CRITERIA)


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        (BAD[3], [], "recipe line 2, step 1, ratio: Prune: ratio=1.5 is not allowed"),
        (BAD[6], [], "unknown criterion 'l3'"),
        ("[", [], "recipe is not JSON (line 1, column 2"),
        ('{"steps": []}', ["--workload", "digit"], "unknown workload 'digit' (did you mean 'digits'?); ch"),
        ('{"steps": []}', ["--model", "mlp", "--model", "mpl"], "unknown digits model 'mpl' (did you mean 'mlp'?);"),
        ('{"steps": []}', ["--save", "no/such.mopt"], "cannot write 'no/such.mopt' (No such file or directory)"),
    ],
    ids=["bound", "name", "json", "workload", "model", "save"],
)  # fmt: skip
def test_it_is_told_before_pytorch_is_imported(tmp_path: Path, text: str, arguments: list[str], says: str) -> None:
    """Deterministic, where a limit in seconds would not be: the libraries that take long are not there yet."""
    path = tmp_path / "bad.json"
    path.write_text(text, "utf-8")
    code = (
        "import sys; from modelopt_core.cli import main; status = main(sys.argv[1:]);"
        "print(status, sorted({'torch', 'onnx', 'numpy', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(path), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    assert done.stdout == "2 []\n"
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
