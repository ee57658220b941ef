"""Recipes written by hand, and damaged ones: the recipe, or one sentence with line and step."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import modelopt_core as mo
from modelopt_core.steps.reading import MOST_DEEP, loads

WHOLE = mo.to_json((mo.Prune(ratios={"conv1": 0.5}, frozen=("fc2",)), mo.Quantize(bits=4), mo.Ensemble(weights=(1, 2))))


@pytest.mark.parametrize(
    "text",
    [
        '{"note": 1, "steps": [{"step": "Prune"}]}'.replace('"note": 1', '"version": 1'),
        '{"st\\u0065ps": [{"st\\u0065p": "Prun\\u0065"}]}',
        '\ufeff{"steps": [{"step": "Prune"}]}',
        '\n\t {"steps"\n:\r\n[ {"step":"Prune"}\n]\n,"version":1} \n',
    ],
)
def test_what_is_one_is_read(text: str) -> None:
    assert mo.from_json(text) == (mo.Prune(),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"version":\n{"steps": [1]}, "steps": [\n{"step": "Prune", "ratio": 2}]}', "recipe version {'steps': [1]}"),
        ('{"x": "steps\\": [",\n "steps": [\n{"step": "Prune"}]}', "recipe line 1: unknown part 'x'; choose from st"),
        ('{"steps": [],\n "stpes": []}', r"recipe line 2: unknown part 'stpes' (did you mean 'steps'?); ch"),
        ('{"steps": [\n{"step": "Prune",\n"self": 1}]}', "recipe line 3, step 1, self: Prune has no field 'self'; its"),
        ('{"steps": [\n{"step": "Prune",\n"cls": 1}]}', "recipe line 3, step 1, cls: Prune has no field 'cls'; its"),
        (
            '{"steps": [\n{"step": "Prune", "rounds": %s}]}' % ("9" * 5000),
            "recipe line 2, step 1, rounds: Prune: rounds=inf is not allowed; rounds must be a whole number ≥ 1 and ≤",
        ),
        ('{"version": %s, "steps": []}' % ("9" * 5000), "recipe version inf is not known; this program"),
        ('{"steps": [],\n"steps": []}', "recipe line 2: 'steps' stands there twice; leave one out"),
        (
            '{"steps": [{"step": "Prune"},\n{"step": "Prune", "ratio": 0.1,\n"ratio": 0.2}]}',
            "recipe line 3, step 2, ratio: 'ratio' stands there twice; leave one out",
        ),
        (
            '{"steps": [{"step": "Prune",\n"ratios": {"conv1": 0.1, "conv1": 0.2}}]}',
            "recipe line 2, step 1, ratios: 'conv1' stands there twice; leave one out",
        ),
        ('{"steps": [{"step": "Prune", "step": "Quantize"}]}', "line 1, step 1, step: 'step' stands there twice"),
        ('{"version": true, "steps": []}', "recipe version True is not known; this program reads version 1"),
        ('{"version": 1.0, "steps": []}', "recipe version 1.0 is not known"),
        ('{"steps": [{"step": "Quantize",\n"bits": true}]}', "bits=True is not allowed; bits must be a whole number"),
        ('{"steps": [{"step": "Prune", "ratio": false}]}', "ratio=False is not allowed; ratio must be a number"),
        ('{"steps": [{"step": "Ensemble", "weights": [1, true]}]}', "weights=[1, True] is not allowed; weights must"),
        ('{"steps": [{"step": "Prune", "ratios": {"a": true}}]}', "ratios={'a': True} is not allowed; ratios must"),
        ('{"steps": [{"step": "Prune", "ratio": NaN}]}', "ratio=nan is not allowed; ratio must be a number"),
        ('{"steps": [{"step": "Prune", "scope": "a\\nb"}]}', r"scope=a\nb is not allowed; scope must be 'layer' or "),
        ('{"steps": [{"step": "Prune", "scope": "\\ud800"}]}', r"recipe is not JSON (it has half of a character"),
        ('{"steps": [{"step": "Prune", "x\\ny": 1}]}', r"recipe line 1, step 1, x\ny: Prune has no field 'x\ny'; its"),
        ('{"steps": [{"step": "Prune", "granularity": "weight", "criterion": "fpgm"}]}', "step 1, criterion: Prune:"),
        ('{"steps": [{"step": "Prune", "ratios": %s]}' % ("[" * 40 + "]" * 40 + "}"), "(nested too deep)"),
        ('{"steps": {"step": "Prune"}}', 'recipe line 1: it must be {"version": 1'),
        ('"steps"', 'recipe line 1: it must be {"version": 1'),
    ],
)  # fmt: skip
def test_what_is_not_is_one_sentence_with_line_and_step(text: str, says: str) -> None:
    with pytest.raises(mo.ModelOptError) as error:
        mo.from_json(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_thousand_mistakes_are_not_all_told() -> None:
    many = ", ".join(f'"f{i}": 1' for i in range(1000))
    with pytest.raises(mo.ModelOptError, match="has no field 'f2'; its fields are [^;]*; and 997 more$"):
        mo.from_json(f'{{"steps": [{{"step": "Finetune", {many}}}]}}')


def test_the_deepest_that_is_read() -> None:
    assert loads("[" * MOST_DEEP + "]" * MOST_DEEP, "it")
    with pytest.raises(mo.ModelOptError, match=r"^it is not JSON \(nested too deep\); mend it there$"):
        loads("[" * (MOST_DEEP + 1) + "]" * (MOST_DEEP + 1), "it")


PIECES = [
    "true", "null", "-1", "1e999", "NaN", "9" * 5000, '""', '"\\ud800"', '"\\u0000"', "[]", "{}", "[[1]]", "0.5", "1",
    '"self"', '"steps"', '"step"', '"version"', '"Prune"', '"conv1"', '{"a": 1, "a": 2}', ",", ":", "{", "}", "[", "]",
    "\ufeff", "\\",
]  # fmt: skip


def damaged(text: str, n: int, seed: int) -> Iterator[str]:
    """n copies with one to four places changed: pieces put in, put in place of others, or taken out."""
    draw = random.Random(seed)
    for _ in range(n):
        made = text
        for _ in range(draw.choice([1, 1, 2, 4])):
            tokens = [i for i, c in enumerate(made) if c in '{}[]:,"'] or [0]
            begin = draw.choice(tokens)
            end = draw.choice([begin, begin + 1, *(i for i in tokens if i > begin)][:4])
            piece = draw.choice([*PIECES, "", made[begin:end] * 2])
            made = made[:begin] + piece + made[end:]
        yield made


def test_damaged_recipes_are_read_or_told_in_one_line() -> None:
    """500 of a recipe of three steps: nothing but a ModelOptError comes of them."""
    told = []
    for text in damaged(WHOLE, 500, seed=11):
        try:
            mo.from_json(text)
        except mo.ModelOptError as error:
            told.append(str(error))
    assert 250 < len(told) < 495
    assert [line for line in told if "\n" in line or line.encode(errors="ignore").decode() != line] == []
