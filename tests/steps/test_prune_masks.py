"""What goes, of convolutions and across layers: by hand, and against loops over single weights."""

import numpy as np
import pytest
import torch
from torch import nn

from modelopt_core.machine.events import Note
from modelopt_core.steps.prune import CRITERIA, Left, Plan, Scorer, prune_channels, prune_weights
from modelopt_core.steps.prune.masks import as_matrix, as_weight, choose

LAYERS = {
    "conv1d": lambda: nn.Conv1d(6, 5, 4),
    "conv2d": lambda: nn.Conv2d(6, 5, (2, 3)),
    "square": lambda: nn.Conv2d(3, 3, 3),
    "grouped": lambda: nn.Conv2d(8, 4, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(2, 3, (2, 1, 3)),
    "linear": lambda: nn.Linear(11, 5),
}


def scorer(model: nn.Module) -> Scorer:
    return Scorer(model, CRITERIA["l1"], torch.Generator().manual_seed(0))


def left_of(layer: nn.Module, ratio: float, granularity: str, block: tuple[int, int]) -> list[bool]:
    """Which of its weights are not zero afterwards, flat."""
    with torch.no_grad():
        prune_weights(layer, Plan(ratio), scorer(layer), granularity, block)
    return (layer.get_parameter("weight") != 0).flatten().tolist()


def rows_of(layer: nn.Module) -> list[list[int]]:
    """Flat places of the weights, a list per output: the kernel's first place with all its inputs, then the next."""
    shape = tuple(layer.get_parameter("weight").shape)
    places = np.arange(np.prod(shape)).reshape(shape)
    return [[int(places[o, i, *at]) for at in np.ndindex(shape[2:]) for i in range(shape[1])] for o in range(shape[0])]


def test_n_of_m_of_a_convolution_by_hand():
    """Four inputs are four neighbours: of (4, 3, 2, 1) at the kernel's first place, (1, 2, 3, 4) at its second."""
    layer = nn.Conv1d(4, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]]]))
        gone = prune_weights(layer, Plan(0.5), scorer(layer), "n:m", (1, 4))[""]
    assert layer.weight.tolist() == [[[4, 0], [3, 0], [0, 3], [0, 4]]]
    assert torch.equal(gone, layer.weight == 0)


def test_a_block_of_a_convolution_by_hand():
    """Two outputs by two inputs at one place: (1, 1; 1, 1) at the first, (9, 0; 0, 0) at the second; 1 < 9 / 4."""
    layer = nn.Conv1d(2, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 9.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]]))
        prune_weights(layer, Plan(0.5), scorer(layer), "block", (2, 2))
    assert layer.weight.tolist() == [[[0, 9], [0, 0]], [[0, 0], [0, 0]]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (5, 16)])
@pytest.mark.parametrize("name", LAYERS)
def test_n_of_m_is_what_loops_over_single_weights_keep(name, n, m):
    layer = LAYERS[name]()
    size, kept = layer.weight.detach().abs().flatten().tolist(), set()
    for row in rows_of(layer):
        for start in range(0, len(row), m):
            kept |= set(sorted(row[start : start + m], key=lambda at: -size[at])[:n])
    assert left_of(layer, 1 - n / m, "n:m", (1, m)) == [at in kept for at in range(len(size))]


@pytest.mark.parametrize("block", [(2, 2), (1, 4), (3, 5), (64, 64)])
@pytest.mark.parametrize("name", LAYERS)
def test_blocks_are_what_loops_over_single_weights_take(name, block):
    """A block's score is the mean of what it holds, at the edge of fewer; the lowest 40 % of all blocks go."""
    layer = LAYERS[name]()
    size, rows = layer.weight.detach().abs().flatten().tolist(), rows_of(layer)
    found = []
    for r in range(0, len(rows), block[0]):
        for c in range(0, len(rows[0]), block[1]):
            held = [at for row in rows[r : r + block[0]] for at in row[c : c + block[1]]]
            found.append((sum(size[at] for at in held) / len(held), held))
    gone = {at for _, held in sorted(found)[: round(0.4 * len(found))] for at in held}
    assert left_of(layer, 0.4, "block", block) == [at not in gone for at in range(len(size))]


@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_becomes_the_weight_again(name):
    weight = LAYERS[name]().weight.detach()
    assert torch.equal(as_weight(as_matrix(weight), weight), weight)


def net(*rows: list[float]) -> nn.Sequential:
    """Two groups of channels that read 8 and 2 inputs: the scores of the first, then of the second."""
    first, second = rows
    model = nn.Sequential(nn.Linear(8, len(first)), nn.ReLU(), nn.Linear(len(first), len(second)), nn.ReLU())
    model.append(nn.Linear(len(second), 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(first)[:, None].expand(-1, 8) / 8)
        model[2].weight.zero_()
        model[4].weight.copy_(torch.tensor([second, [0.0] * len(second)]))
    return model


def cut(model: nn.Module, plan: Plan) -> tuple[nn.Module, list[object]]:
    said: list[object] = []
    example = torch.zeros(1, 8)
    return prune_channels(model, Left.whole(model, example), plan, scorer(model), said.append)[0], said


def test_layers_of_different_width_compare_by_their_mean():
    """90 and 110 beside 0.5, 1, 1, 1.5: in means 0.9, 1.1 and the same; a third of six is the 0.5 and the 90.

    As they are, by their sums or by their largest, two of the second layer's would go.
    """
    thin, said = cut(net([90.0, 110.0], [0.5, 1.0, 1.0, 1.5]), Plan(1 / 3, together=True))
    assert thin[0].weight.sum(dim=1).tolist() == [110]
    assert thin[4].weight[0].tolist() == [1, 1, 1.5]
    assert said == []


def test_the_channel_that_stays_is_the_strongest():
    """All would go: of 1, 3, 2 the second stays, of 2, 5, 4, 6 the last, and both are told."""
    for together in (False, True):
        thin, said = cut(net([1.0, 3.0, 2.0], [2.0, 5.0, 4.0, 6.0]), Plan(0.99, together))
        assert thin[0].weight.sum(dim=1).tolist() == [3]
        assert thin[4].weight[0].tolist() == [6]
        assert said == [Note(f"{name}: one channel stays, a layer can't be empty") for name in ("0", "2")]


def test_scores_that_compare_are_not_divided():
    """lamp: squares over those as large or larger: 0.40 and 1 beside 0.06, 0.24, 0.31 and 1. A third are 0.06, 0.24.

    Divided by their means, 0.70 and 0.40, they would be the 0.06 and the 0.40.
    """
    model, example = net([90.0, 110.0], [0.5, 1.0, 1.0, 1.5]), torch.zeros(1, 8)
    by_lamp = Scorer(model, CRITERIA["lamp"], torch.Generator().manual_seed(0))
    thin, _ = prune_channels(model, Left.whole(model, example), Plan(1 / 3, together=True), by_lamp)
    assert [m.out_features for m in thin if isinstance(m, nn.Linear)] == [2, 2, 2]


def test_half_way_half_of_every_ratio_is_gone():
    assert Plan(0.8, together=True, own={"a": 0.4, "b": 0.0}).part(0.5) == Plan(0.4, True, {"a": 0.2, "b": 0.0})


def test_one_pool_for_all_and_one_for_each_by_hand():
    """Half of six together are the 1, 2 and 3; half of each layer are the 1 of two and the 3 and 4 of four."""
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0], [5.0, 6.0]])}
    together = choose(scores, Plan(0.5, together=True))
    assert {n: t.int().tolist() for n, t in together.items()} == {"a": [[1, 1]], "b": [[1, 0], [0, 0]]}
    apart = choose(scores, Plan(0.5))
    assert {n: t.int().tolist() for n, t in apart.items()} == {"a": [[1, 0]], "b": [[1, 1], [0, 0]]}
    own = choose(scores, Plan(0.5, together=True, own={"a": 0.0}))
    assert {n: t.int().tolist() for n, t in own.items()} == {"a": [[0, 0]], "b": [[1, 1], [0, 0]]}
