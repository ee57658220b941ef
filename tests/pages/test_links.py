"""What a link says, read as the pages read it: a value, or one sentence. Whoever made the link."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from pages.distilling import teacher
from pages.state import address, bench, controls, pin, pool
from tests.steps.test_reading import damaged

PRUNED = '{"on":"%s","steps":[{"step":"Prune","ratio":0.5,"ratios":{"conv1":0.5}},{"step":"Quantize","bits":4}]}'
JOINT = '{"of":["cnn",%s],"steps":[{"step":"Ensemble","weights":[1,2]}]}' % (PRUNED % "mlp")


@pytest.fixture(scope="module")
def here() -> bench.Bench:
    return bench.Bench(mo.workload("digits"), "cnn", mo.baseline("digits", "cnn"), "onnx", "cpu", "tune")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A session and an address bar of the test's own."""
    state: dict[str, Any] = {}
    monkeypatch.setattr(address, "st", SimpleNamespace(session_state=state))
    return state


READERS: dict[str, tuple[str, Callable[[str, bench.Bench], object]]] = {
    "pin": (PRUNED % "digits/cnn", lambda text, here: pin._parsed(text, here)),
    "members": (f'["cnn",{JOINT}]', lambda text, here: pool._parsed(text, here)),
    "teacher": (JOINT, lambda text, here: teacher._read(text, here)),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_links_are_taken_or_told(name: str, here: bench.Bench, session: dict[str, Any]) -> None:
    """300 of each kind: nothing but a ModelOptError comes of them."""
    whole, read = READERS[name]
    assert read(whole, here)
    taken = 0
    for text in damaged(whole, 300, seed=5):
        session["url.pending"] = {name: text}
        before = len(session.get("url.notes", []))
        address.take(name, "there", lambda text: read(text, here))
        taken += len(session.get("url.notes", [])) == before
    assert 1 <= taken < 200


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("pin", '{"on":"digits/cnn","steps":[],"steps":[]}', "pin has 'steps' twice in one object; leave one out"),
        (
            "pin",
            '{"on":"digits/cnn","stps":[]}',
            "unknown part of a model 'stps' (did you mean 'steps'?); choose from of",
        ),
        ("pin", '{"on":"digits/cnn","version":true,"steps":[]}', "recipe version True is not known"),
        ("pin", '{"on":"digits/cnn","steps":[{"step":"Prune","self":1}]}', "step 1, self: Prune has no field 'self'"),
        ("pin", "[]", 'pin is no model; write {"on":"digits/cnn"'),
        ("pin", "9" * 5000, 'pin is no model; write {"on":"digits/cnn"'),
        ("members", '["cnn",{"on":"cnn","steps":[{"step":"Quantize","bits":true}]}]', "bits=True is not allowed"),
        ("members", '["cnn",{"on":"mlp","on":"cnn"}]', "members has 'on' twice in one object; leave one out"),
        ("members", f"[{'9' * 5000},1]", "unknown digits model"),
        ("teacher", '{"of":["cnn","mlp"],"x":1}', "unknown part of a model 'x'; choose from of, on, steps, version"),
    ],
)
def test_what_a_link_may_not_say(name: str, text: str, says: str, here: bench.Bench) -> None:
    with pytest.raises(ModelOptError) as error:
        READERS[name][1](text, here)
    assert says in str(error.value)


def test_a_byte_order_mark_and_other_spellings_are_read(here: bench.Bench, session: dict[str, Any]) -> None:
    for text in ("\ufeff" + PRUNED % "digits/cnn", (PRUNED % "digits/cnn").replace("steps", "st\\u0065ps")):
        session["url.pending"] = {"pin": text}
        address.take("pin", "there", lambda text: pin._parsed(text, here))
        assert session.pop("there").steps == (mo.Prune(ratio=0.5, ratios={"conv1": 0.5}), mo.Quantize(bits=4))
    assert "url.notes" not in session


FIELDS = [(step, name) for step in mo.STEPS.values() for name in step.function.model_fields]
VALUES = ["true", "True", "nan", "inf", "-1", "9" * 1999, "1e999", "\0", "a:b", ":", ",", "a:1,a:1", "[]", "{}", "½"]


@pytest.mark.parametrize(("step", "name"), FIELDS, ids=lambda part: part if isinstance(part, str) else part.name)
def test_any_text_for_any_field(step: Any, name: str) -> None:
    """A value of the field that goes through JSON and a link again, or one sentence."""
    for text in VALUES:
        try:
            value = controls.value_from(step.function, name, text)
        except ModelOptError:
            continue
        again = step.function(**{name: value})
        assert mo.from_json(json.dumps({"steps": [{"step": again.name, name: value}]})) == (again,)
        assert type(value) is not bool or step.function.model_fields[name].annotation is bool
