"""Recipes: JSON both ways, errors with field and line, stages, and the response curve."""

import sys

import pytest

import modelopt_core as mo

RECIPE = (mo.Prune(ratio=0.25), mo.Quantize(bits=4, scheme="affine"))


def test_json_round_trip():
    assert mo.from_json(mo.to_json(RECIPE)) == RECIPE
    assert mo.from_json('{"steps": []}') == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"steps": [\n', r"recipe is not JSON \(line 2, column 1: Expecting value\)"),
        ("[]", r'recipe line 1: it must be \{"version": 1'),
        ('{"version": 2, "steps": []}', r"recipe version 2 is not known; this program reads version 1"),
        ('{"steps": [\n {"ratio": 0.5}]}', r'recipe line 2, step 1: it must be an object with a field "step"'),
        (
            '{"steps": [\n {"step": "Pruen"}]}',
            r"recipe line 2, step 1, step: unknown step 'Pruen' \(did you mean 'Prune'",
        ),
        (
            '{"steps": [\n {"step": "Prune"},\n {"step": "Quantize",\n  "scheme": "affine",\n  "bits": 12}]}',
            r"recipe line 5, step 2, bits: Quantize: bits=12 is not allowed; bits must be a whole number ≥ 1 and ≤ 8",
        ),
        (
            '{"steps": [{"step": "Prune",\n\n "criterion": "l9"}]}',
            r"recipe line 3, step 1, criterion: unknown criterion 'l9'",
        ),
        (
            '{"steps": [{"step": "Prune",\n "amount": 1}]}',
            r"recipe line 2, step 1, amount: Prune has no field 'amount'",
        ),
        ('{"steps": [{"step": ["Prune"]}]}', r"step 1, step: unknown step \"\['Prune'\]\""),
        ("[" * 100_000, r"recipe is not JSON \(nested too deep\)"),
    ],
)
def test_what_is_not_a_recipe_is_refused_with_field_and_line(text, message):
    with pytest.raises(mo.ModelOptError, match=message):
        mo.from_json(text)


def test_run_measures_after_every_step():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    events: list[object] = []
    stages = mo.run(RECIPE, [model], w, report=events.append)
    assert [s.label for s in stages] == ["baseline", "Prune(ratio=0.25)", "Quantize(bits=4, scheme=affine)"]
    sizes = [s.measurement.size_bytes for s in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert stages[1].measurement.macs == stages[2].measurement.macs < stages[0].measurement.macs
    assert [e for e in events if isinstance(e, mo.Stage)] == stages
    assert [e.step for e in events if isinstance(e, mo.Progress)] == [0, 1, 2]


def test_every_stage_is_timed_beside_the_first_model(monkeypatch):
    """Against itself a network of half the size would be no faster."""
    w, pool, beside = mo.workload("digits"), [mo.baseline("digits", "cnn"), mo.baseline("digits", "mlp")], []
    module = sys.modules["modelopt_core.steps.recipe"]
    real = module.measure

    def measure(model, *args, baseline, **options):
        beside.append(baseline)
        return real(model, *args, baseline=baseline, **options)

    monkeypatch.setattr(module, "measure", measure)
    mo.run((mo.Prune(ratio=0.5), mo.Ensemble()), pool, w)
    assert len(beside) == 5
    assert all(one is pool[0] for one in beside)


def test_order_is_the_users():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    one, other = (mo.run(r, [model], w)[-1].measurement for r in (RECIPE, RECIPE[::-1]))
    assert one.macs == other.macs
    assert one.size_bytes != other.size_bytes  # the grid of a cut layer is not the cut of a grid


def test_an_empty_pool_is_an_error():
    with pytest.raises(mo.ModelOptError, match="needs at least one model"):
        mo.run((), [], mo.workload("digits"))


def test_curve_yields_the_ends_first_and_only_measured_points():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    points = list(mo.curve(mo.Prune(), "ratio", model, w, points=5))
    assert [p.value for p in points[:2]] == [0.0, 0.99]
    alone = mo.measure(mo.Prune(ratio=points[2].value).apply(model, w), w, baseline=model)
    assert points[2].measurement == alone
    by_ratio = sorted(points, key=lambda p: p.value)
    assert [p.measurement.macs for p in by_ratio] == sorted((p.measurement.macs for p in points), reverse=True)


def test_curve_over_bits():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    points = sorted(mo.curve(mo.Quantize(), "bits", model, w), key=lambda p: p.value)
    assert [p.value for p in points] == [*range(1, 9), 16]
    sizes = [p.measurement.size_bytes for p in points]
    assert sizes == sorted(sizes)
