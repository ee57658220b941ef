"""Early exits: where a network can be cut, stages that share their work and skip the rest, files, graphs, refusals."""

import onnxruntime
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity
from modelopt_core.models.spec import Composition, Spec
from modelopt_core.runtime.onnx_export import onnx_bytes
from modelopt_core.steps.cascade import Exits
from modelopt_core.steps.cascade.split import pieces, places, pool
from modelopt_core.structure.build import build
from modelopt_core.structure.layer_table import macs

EXITS = {"stages": "exits"}


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def cnn():
    return mo.baseline("digits", "cnn")


def left(threshold, cnn, w, **more):
    return mo.Cascade(threshold=threshold, **EXITS, **more).apply([cnn], w)


def test_places_by_hand(w, cnn):
    """Behind the last layer nothing is left to save; a state is what one tensor carries, a mask of words beside it."""
    assert [(p.layer, tuple(p.state.shape)) for p in places(cnn, w.example)] == [
        ("inputs", (1, 1, 8, 8)),
        ("conv1", (1, 16, 8, 8)),
        ("conv2", (1, 512)),
    ]
    docstrings = mo.workload("docstrings")
    bag, textcnn = (mo.baseline("docstrings", name) for name in ("bag", "textcnn"))
    assert [p.layer for p in places(bag, docstrings.example)] == ["embedding"], "token ids are no numbers"
    [place] = places(textcnn, docstrings.example)
    assert [(tuple(state.shape), state.dtype) for state in place.states] == [
        ((1, 32, 48), torch.float32),
        ((1, 1, 48), torch.bool),
    ]


def test_what_a_head_reads():
    """Pictures over the smallest squares that leave at most 800 numbers, sequences over all places, vectors whole."""
    shapes = {
        (20, 12, 12): 720,
        (16, 8, 8): 256,
        (50, 4, 4): 800,
        (1, 28, 28): 784,
        (900, 3, 3): 900,
        (32, 48): 32,
        (1200,): 1200,
    }
    for shape, numbers in shapes.items():
        state = torch.randn(2, *shape)
        assert pool(state)(state).shape == (2, numbers)


@pytest.mark.parametrize(("workload", "name"), [("digits", "cnn"), ("docstrings", "textcnn"), ("docstrings", "bag")])
def test_pieces_are_the_network(workload, name):
    w, net = mo.workload(workload), mo.baseline(workload, name)
    x = w.val.inputs[:9]
    with torch.no_grad():
        state = (x,)
        for piece in pieces(net, places(net, w.example)):
            state = piece(*state)
        torch.testing.assert_close(state[0], net(x))


class Twisted(nn.Module):
    """A shortcut over the second layer, and a scale that is read before the cut and used after it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        scale = self.scale
        x = torch.relu(self.fc1(x))
        return self.fc3(x + torch.relu(self.fc2(x))) * scale


def test_a_shortcut_is_not_cut():
    """Within it two tensors pass; behind the sum one does, but a head costs as much as what is left."""
    net, x = Twisted(), torch.randn(3, 4)
    inputs, place = places(net, x[:1])
    assert (inputs.layer, place.layer) == ("inputs", "fc1")
    for cuts in ([place], [inputs, place]):
        state = (x,)
        for piece in pieces(net, cuts):
            state = piece(*state)
        torch.testing.assert_close(state[0], net(x))


def test_sure_of_nothing_it_is_the_network_and_sure_of_all_the_first_head(w, cnn):
    x = w.test.inputs
    with torch.no_grad():
        never, always = left(1.0, cnn, w, thresholds=(1.0, 1.0)), left(0.0, cnn, w)
        assert torch.equal(never(x).argmax(1), cnn(x).argmax(1))
        torch.testing.assert_close(always(x), always.parts[0](x), atol=1e-5, rtol=1e-5)
    first = mo.measure(always, w)
    assert first.macs == macs(always.parts[0], w.example) < macs(cnn, w.example) / 10
    assert first.score.value > 0.95


def test_what_is_sure_does_not_go_on(w, cnn):
    """Every piece hears of those examples only that no earlier one let go; the answers are those of `predictions`."""
    whole = left(0.95, cnn, w)
    asked = []

    def counted(member):
        def call(x):
            asked.append(len(x))
            return member(x)

        return call

    with torch.no_grad():
        said = whole.run([counted(member) for member in whole.members], w.test.inputs)
    found = mo.predictions(whole, w, "test").outputs.logits
    torch.testing.assert_close(said, found, atol=1e-3, rtol=1e-3)
    shares = whole.used(stacked(whole.parts, w, "test")).sum(1)
    assert asked == [len(w.test), *(len(w.test) - shares[: i + 1].sum() for i in range(2))]
    with torch.no_grad():
        one = [whole(x[None]) for x in w.test.inputs[:20]]
        torch.testing.assert_close(torch.cat(one), said[:20], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("confidence", list(mo.CONFIDENCES))
def test_file_graph_and_sizes(confidence, w, cnn):
    whole, x = left(0.9, cnn, w, confidence=confidence, calibrate=True), w.test.inputs
    data = mopt.encode(whole)
    assert len(data) == mo.measure(whole, w).size_bytes
    with torch.no_grad():
        assert torch.equal(mopt.decode(data)(x), whole(x))
        session = onnxruntime.InferenceSession(onnx_bytes(whole, w.example))
        graph = torch.from_numpy(session.run(["logits"], {"inputs": x.numpy()})[0])
        torch.testing.assert_close(graph, whole(x), atol=1e-4, rtol=1e-4)
    heads = sum(p.numel() for name, p in whole.named_parameters() if ".head." in name)
    assert mo.measure(whole, w).parameters == sum(p.numel() for p in cnn.parameters()) + heads


def test_the_contract(w, cnn):
    """Inputs stay; the same twice; JSON both ways; a threshold fits no head again; notes are few."""
    key = identity.key(cnn)
    step = mo.Cascade(threshold=0.8, exits=("conv1",), **EXITS)
    whole = step.apply([mo.baseline("digits", "mlp"), cnn], w)
    assert isinstance(whole, Exits)
    assert identity.key(cnn) == key
    assert len(whole.members) == 2, "the last model of the pool, one exit"
    assert mo.from_json(mo.to_json([step])) == (step,)
    other = step.changed(threshold=0.5).apply([cnn], w)
    assert torch.equal(other.members[0].head.weight, whole.members[0].head.weight)
    assert [identity.key(p) for p in other.parts] == [identity.key(p) for p in whole.parts]


def test_it_stacks_both_ways(w, cnn):
    whole = left(0.9, mo.Quantize(bits=8).apply(mo.Prune(ratio=0.2).apply(cnn, w), w), w)
    small = mo.Quantize(bits=8).apply(whole, w)
    assert mo.measure(small, w).size_bytes < mo.measure(whole, w).size_bytes
    assert mo.measure(small, w).score.value > 0.9
    with pytest.raises(mo.ModelOptError, match="Prune cannot trace Cascade; put Prune before Cascade"):
        mo.Prune(ratio=0.2).apply(whole, w)
    pair = mo.Ensemble().apply([whole, mo.baseline("digits", "mlp")], w)
    assert mo.measure(pair, w).score.value > 0.9
    student = mo.Distill(student="mlp", epochs=1, batch_size=512).apply(whole, w)
    assert torch.isfinite(student(w.example)).all()


def test_words_may_leave_behind_their_vectors():
    """The mask goes on beside the vectors, through files and graphs too."""
    w, net = mo.workload("docstrings"), mo.baseline("docstrings", "textcnn")
    whole, x = left(0.6, net, w), w.test.inputs[:50]
    assert whole.layers == ("embedding",)
    with torch.no_grad():
        said, alone = whole(x), net(x)
        gone = whole.used(torch.stack([part(x) for part in whole.parts]))[0] == 1
        assert 0 < gone.sum() < len(x)
        torch.testing.assert_close(said[~gone], alone[~gone].log_softmax(1), atol=1e-4, rtol=1e-4)
        assert torch.equal(mopt.decode(mopt.encode(whole))(x), said)
        session = onnxruntime.InferenceSession(onnx_bytes(whole, w.example))
        graph = torch.from_numpy(session.run(["logits"], {"inputs": x.numpy()})[0])
        torch.testing.assert_close(graph, said, atol=1e-4, rtol=1e-4)


def test_exits_of_what_has_exits_are_its_own(w, cnn):
    """Another threshold or confidence, the same heads; also after they were quantized."""
    whole = left(0.9, cnn, w, calibrate=True)
    other = left(0.5, whole, w, confidence="margin")
    assert other.thresholds.tolist() == [0.5, 0.5]
    assert torch.equal(other.members[0].head.weight, whole.members[0].head.weight)
    torch.testing.assert_close(other(w.example), left(0.5, cnn, w, confidence="margin")(w.example))
    torch.testing.assert_close(mopt.decode(mopt.encode(other))(w.example), other(w.example))
    eight = mo.Quantize(bits=8).apply(whole, w)
    assert torch.equal(left(0.5, eight, w).members[1].head.weight, eight.members[1].head.weight)
    with pytest.raises(mo.ModelOptError, match="has its exits behind conv1, conv2, not conv1; leave exits empty, or"):
        left(0.5, whole, w, exits=("conv1",))


def test_what_has_no_exit(w, cnn):
    small = build(Spec("mlp", (("sizes", (64, 16, 10)),), (1, 8, 8)))
    with pytest.raises(mo.ModelOptError, match="Sequential has no place for an early exit: nowhere is one tensor left"):
        left(0.9, small, w)
    assert left(0.9, small, w, exits=("inputs",)).layers == ("inputs",)
    with pytest.raises(mo.ModelOptError, match="unknown layer for an exit 'fc9'; choose from conv1, conv2, inputs"):
        left(0.9, cnn, w, exits=("fc9",))
    with pytest.raises(mo.ModelOptError, match="early exits need a network of a known architecture"):
        left(0.9, nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), w)
    with pytest.raises(mo.ModelOptError, match="Cascade has 1 thresholds, its model 3 ways out; give 2"):
        left(0.9, cnn, w, thresholds=(0.5,))


@pytest.mark.parametrize(
    ("layers", "message"), [("", "unknown layer for an exit ''"), ("fc1,fc7", "unknown layer for an exit 'fc7'")]
)
def test_a_hostile_composition_is_refused(layers, message):
    member = Spec("mlp", (("sizes", (64, 64, 32, 10)),), (1, 8, 8))
    with pytest.raises(mo.ModelOptError, match=message):
        build(Composition("exits", (("confidence", "margin"), ("layers", layers)), (1, 8, 8), members=(member,)))
