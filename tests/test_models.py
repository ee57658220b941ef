"""Every architecture against hand counts, tracing, ONNX, and specs that ask for nonsense."""

from __future__ import annotations

import inspect
import subprocess
import sys

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from modelopt_core import export
from modelopt_core.errors import ModelOptError
from modelopt_core.models import ARCHITECTURES, MAX_PARAMETERS, build
from modelopt_core.spec import Spec, spec_of
from modelopt_core.tracing import trace
from tests.waiting import LIMIT_S

IMAGE, DIGIT, TEXT = (1, 28, 28), (1, 8, 8), (48,)
SPECS = {
    "mlp": Spec("mlp", (("sizes", (784, 300, 100, 10)),), IMAGE),
    "cnn": Spec("cnn", (), DIGIT),
    "lenet5": Spec("lenet5", (), IMAGE),
    "article": Spec("article", (), IMAGE),
    "bag": Spec("bag", (("classes", 7),), TEXT, "int64"),
    "textcnn": Spec("textcnn", (("classes", 7),), TEXT, "int64"),
    "denoiser": Spec("denoiser", (), DIGIT),
}


def example(spec: Spec, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if spec.input_dtype == "int64":
        return torch.randint(0, 4096, (batch, *spec.input_shape), generator=generator)
    return torch.rand(batch, *spec.input_shape, generator=generator)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        ("cnn", 16 * 9 + 2 * 16 + 32 * 16 * 9 + 2 * 32 + 512 * 32 + 32 + 32 * 10 + 10),
        ("lenet5", 20 * 25 + 20 + 50 * 20 * 25 + 50 + 800 * 500 + 500 + 500 * 10 + 10),
        ("article", 20 * 25 + 20 + 20 * 20 * 25 + 20 + 320 * 10 + 10),
        ("bag", 4096 * 32 + 32 * 32 + 32 + 32 * 7 + 7),
        ("textcnn", 4096 * 32 + 64 * 32 * 5 + 64 + 64 * 7 + 7),
        ("denoiser", 8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 9 + 1),
    ],
)
def test_parameters_are_those_counted_by_hand(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build(SPECS[name]).parameters()) == parameters


def test_mlp_layers_have_the_names_of_the_papers() -> None:
    names = [name for name, m in build(SPECS["mlp"]).named_modules() if isinstance(m, nn.Linear)]
    assert names == ["fc1", "fc2", "fc3"]


def test_bag_is_the_mean_over_words_and_ignores_padding() -> None:
    model = build(SPECS["bag"])
    words, mean = torch.tensor([5, 9]), model.embedding.weight[[5, 9]].mean(0)
    expected = model.fc2(torch.relu(model.fc1(mean)))
    tokens = torch.zeros(1, 48, dtype=torch.int64)
    tokens[0, 3], tokens[0, 40] = words
    torch.testing.assert_close(model(tokens)[0], expected)


def test_textcnn_ignores_how_much_padding_follows() -> None:
    model = build(SPECS["textcnn"])
    nn.init.constant_(model.conv1.bias, 1.0)  # padding that was not masked would answer with the bias
    words = example(SPECS["textcnn"], 1)[:, :20].clamp(min=1)
    short, long = (nn.functional.pad(words, (0, n)) for n in (1, 28))
    torch.testing.assert_close(model(short), model(long))


@pytest.mark.parametrize("name", ["bag", "textcnn"])
def test_an_empty_text_has_a_finite_answer(name: str) -> None:
    assert bool(torch.isfinite(build(SPECS[name])(torch.zeros(1, 48, dtype=torch.int64))).all())


def test_every_architecture_is_tried_here() -> None:
    assert SPECS.keys() == ARCHITECTURES.keys()
    assert all("(B, " in entry.summary for entry in ARCHITECTURES.values())


@pytest.mark.parametrize("name", SPECS)
def test_traces_and_exports_to_the_same_answers(name: str) -> None:
    spec = SPECS[name]
    model, inputs = build(spec), example(spec, 3)
    expected = model(inputs)
    torch.testing.assert_close(torch.fx.GraphModule(model, trace(model))(inputs), expected)
    session = onnxruntime.InferenceSession(export.onnx_bytes(model, spec.example))
    answers = session.run(None, {export.INPUT: inputs.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(answers), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SPECS)
def test_a_seed_gives_the_same_weights_and_the_global_state_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = build(SPECS[name], 1), build(SPECS[name], 1), build(SPECS[name], 2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert all(bool(torch.isfinite(t).all()) for t in first.state_dict().values())
    assert not first.training
    assert spec_of(first) == SPECS[name]


def test_initial_weights_have_the_spread_that_pytorch_gives() -> None:
    ours, theirs = build(SPECS["lenet5"]).fc1, nn.Linear(800, 500)
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.01)
    assert ours.bias.abs().max().item() <= 800**-0.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec("lenet", (), IMAGE),
            "unknown architecture 'lenet' .*choose from article, bag, cnn, denoiser, lenet5, mlp",
        ),
        (Spec("cnn", (("widht1", 3),), DIGIT), "'cnn' takes width1: int = 16, .*unexpected keyword argument 'widht1'"),
        (Spec("mlp", (), DIGIT), "missing a required argument: 'sizes'"),
        (Spec("mlp", (("sizes", 3),), DIGIT), "sizes=3 must be a tuple"),
        (Spec("mlp", (("sizes", (64,)),), DIGIT), "must be a tuple of inputs, hidden widths and classes"),
        (Spec("mlp", (("sizes", (64,) * 65),), DIGIT), "sizes has 65 numbers, allowed are 1 to 64"),
        (Spec("cnn", (("width1", 0),), DIGIT), "width1=0 must be whole numbers from 1"),
        (Spec("cnn", (("width1", 2.5),), DIGIT), "width1=2.5 must be whole numbers from 1"),
        (Spec("cnn", (("width1", True),), DIGIT), "width1=True must be whole numbers from 1"),
        (Spec("cnn", (), (1, -8, 8)), "input_shape=.* must be whole numbers from 1"),
        (Spec("cnn", (), DIGIT, "float16"), "input_dtype 'float16'; choose from float32, int64"),
        (Spec("textcnn", (("kernel", 4),), TEXT, "int64"), "kernel=4 must be odd"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_line(spec: Spec, message: str) -> None:
    with pytest.raises(ModelOptError, match=message) as caught:
        build(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_limit_of_parameters_holds_at_n_and_n_plus_1_without_using_memory() -> None:
    inside = Spec("mlp", (("sizes", (63, 2**20)),), (63,))  # 63 · 2²⁰ weights + 2²⁰ biases = 2²⁶ exactly
    assert MAX_PARAMETERS == 63 * 2**20 + 2**20
    with torch.device("meta"):
        assert sum(p.numel() for p in ARCHITECTURES["mlp"](**dict(inside.arguments)).parameters()) == MAX_PARAMETERS
    with pytest.raises(ModelOptError, match="67,108,928 parameters, allowed are 67,108,864"):
        build(Spec("mlp", (("sizes", (63, 2**20 + 1)),), (63,)))
    with pytest.raises(ModelOptError, match="parameters, allowed are"):
        build(Spec("mlp", (("sizes", (10**7, 10**7, 10**7)),), (63,)))


def test_a_narrow_net_can_be_built_again_from_its_spec() -> None:
    spec = Spec("lenet5", (), IMAGE, kept=(("conv1", 3), ("fc1", 7)))
    model = build(spec)
    assert model.conv1.weight.shape == (3, 1, 5, 5)
    assert model.conv2.weight.shape == (50, 3, 5, 5)
    assert model.fc1.weight.shape == (7, 800)
    assert model(example(spec, 2)).shape == (2, 10)
    assert spec_of(model) == spec


def test_source_of_an_architecture_can_be_shown() -> None:
    assert inspect.getsource(ARCHITECTURES["mlp"].function) == ARCHITECTURES["mlp"].source


def test_building_imports_no_compiler():
    """A layer that is drawn on the meta device would: 0.5 s and 70 MB."""
    code = (
        "import sys\nfrom modelopt_core.models import build\nfrom modelopt_core.spec import Spec\n"
        f"for spec in {list(SPECS.values())!r}:\n    build(spec)\n"
        "print(sorted({'sympy', 'torch._dynamo'} & sys.modules.keys()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert said.stdout.strip() == "[]"
