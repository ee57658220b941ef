"""How each kind of operator couples channels: small networks, one idea each; removal equals masking on all of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelopt_core.errors import ModelOptError
from modelopt_core.structure import channels
from tests.structure.test_channels import masked, seeded

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Layers by name, and a forward pass that a test writes."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def head(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 4))


def net(forward, **layers: nn.Module) -> nn.Module:
    return seeded(Net(forward, **layers))


def shuffle(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)  # (N, H · W, C)


def halves(m, x):
    a, b = m.a(x).chunk(2, dim=1)
    return m.head(torch.cat((a, F.relu(m.b(b))), dim=1))


def shuffle_block(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=1)
    return shuffle(torch.cat((a, F.relu(layer(b))), dim=1))


def padded(m, x):
    """The parameter-free shortcut of the first residual networks: zeros for the new channels."""
    x = F.relu(m.a(x))
    return m.head(F.relu(F.pad(x, (0, 0, 0, 0, 2, 2)) + m.b(x)))


NETS = {
    "concatenation": net(
        lambda m, x: m.head(torch.cat([F.relu(m.a(x)), x, m.bn(m.b(x))], 1)),
        a=conv(3, 4), b=conv(3, 6), bn=nn.BatchNorm2d(6), head=head(13),
    ),
    "concatenation and sum": net(
        lambda m, x: m.head(F.relu(torch.cat([m.a(x), m.b(x)], 1) + m.c(x))),
        a=conv(3, 4), b=conv(3, 6, 3), c=conv(3, 10), head=head(10),
    ),
    "flattened concatenation": net(
        lambda m, x: m.fc(torch.cat([m.a(x), m.b(x)], 1).flatten(1)), a=conv(3, 4), b=conv(3, 3), fc=nn.Linear(448, 4)
    ),
    "squeeze and excite": net(
        lambda m, x: (lambda y: m.head(y * m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))).sigmoid()))(m.a(x)),
        a=conv(3, 8), down=conv(8, 4), up=conv(4, 8), head=head(8),
    ),
    "depthwise": net(
        lambda m, x: m.head(m.b(F.relu(m.a(x)))), a=conv(3, 6), b=conv(6, 6, 3, groups=6), head=head(6)
    ),
    "depthwise, two filters each": net(
        lambda m, x: m.head(m.b(m.a(x))), a=conv(3, 6), b=conv(6, 12, 3, groups=6), head=head(12)
    ),
    "many small groups": net(
        lambda m, x: m.head(m.b(F.relu(m.a(x)))), a=conv(3, 12), b=conv(12, 18, 3, groups=6), head=head(18)
    ),
    "two large groups": net(
        lambda m, x: m.head(m.b(F.relu(m.a(x)))), a=conv(3, 16), b=conv(16, 24, 3, groups=2), head=head(24)
    ),
    "group norm": net(
        lambda m, x: m.head(F.relu(m.norm(m.a(x)))), a=conv(3, 12), norm=nn.GroupNorm(6, 12), head=head(12)
    ),
    "slopes": net(lambda m, x: m.head(m.p(m.a(x))), a=conv(3, 6), p=nn.PReLU(6), head=head(6)),
    "chunk": net(halves, a=conv(3, 12), b=conv(6, 6), head=head(12)),
    "chunk and shuffle": net(
        lambda m, x: m.head(shuffle(torch.cat((m.a(x), F.relu(m.b(x))), 1))), a=conv(3, 6), b=conv(3, 6), head=head(12)
    ),
    "shuffle three times": net(
        lambda m, x: m.head(shuffle_block(m.d, shuffle_block(m.c, shuffle_block(m.b, m.a(x))))),
        a=conv(3, 28), b=conv(14, 14), c=conv(14, 14), d=conv(14, 14), head=head(28),
    ),
    "zeros for new channels": net(padded, a=conv(3, 6), b=conv(6, 10, 3), head=head(10)),
    "attention": net(
        lambda m, x: m.fc((lambda t: t + m.att(t, t, t, need_weights=False)[0])(tokens(m.a(x)))[:, 0]),
        a=conv(3, 8), att=nn.MultiheadAttention(8, 4, batch_first=True), fc=nn.Linear(8, 4),
    ),
    "attention, sequence first": net(
        lambda m, x: m.fc(m.att(*[m.a(x).flatten(2).permute(2, 0, 1)] * 3, need_weights=False)[0][0]),
        a=conv(3, 8), att=nn.MultiheadAttention(8, 4, bias=False), fc=nn.Linear(8, 4),
    ),
    "transformer's two linear layers": net(
        lambda m, x: m.fc((lambda t: t + m.down(F.gelu(m.up(m.norm(t)))))(m.a(x).permute(0, 2, 3, 1)).mean((1, 2))),
        a=conv(3, 8), norm=nn.LayerNorm(8), up=nn.Linear(8, 12), down=nn.Linear(12, 8), fc=nn.Linear(8, 4),
    ),
}  # fmt: skip


def sizes(model: nn.Module) -> dict[str, int]:
    return {g.name: g.size for g in channels.groups(model, IMAGE[:1]) if not g.frozen}


def reasons(model: nn.Module) -> dict[str, str]:
    return {g.name: g.frozen for g in channels.groups(model, IMAGE[:1]) if g.frozen}


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.999])
@pytest.mark.parametrize("name", NETS)
def test_removal_equals_masking(name, ratio):
    model = NETS[name]
    found = [g for g in channels.groups(model, IMAGE[:1]) if not g.frozen]
    keep = {g.name: channels.strongest(channels.weights(model, g).abs().sum(1), ratio) for g in found}
    thin = channels.narrow(model, found, keep)
    assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(thin(IMAGE), masked(model, found, keep)(IMAGE), atol=1e-5, rtol=1e-5)
    again = channels.cut(thin, IMAGE[:1], 0.5)  # what was cut can be cut again
    assert again(IMAGE).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("concatenation", {"a": 4, "b": 6}),
        ("concatenation and sum", {"a": 4, "b": 6}),  # c's ten channels go with a's four and b's six
        ("squeeze and excite", {"a": 8, "down": 4}),  # up's go with a's
        ("many small groups", {"a": 6}),  # whole groups: two that it reads with three that it makes
        ("two large groups", {"a": 8, "b": 12}),  # as many from each group
        ("group norm", {"a": 6}),
        ("chunk", {"a": 6, "b": 6}),  # two by two; b's are concatenated
        ("chunk and shuffle", {"a": 6}),
        ("shuffle three times", {"a": 3}),  # 28 → 14 → 7 is odd
        ("zeros for new channels", {"a": 6}),
        ("attention", {"att": 4}),  # heads
        ("transformer's two linear layers", {"up": 12}),
    ],
)
def test_what_can_go(name, expected):
    assert sizes(NETS[name]) == expected


def test_a_channel_of_a_concatenation_by_hand():
    """b's second channel is column 4 + 3 + 1 of what the head reads."""
    model = NETS["concatenation"]
    found = [g for g in channels.groups(model, IMAGE[:1]) if not g.frozen]
    thin = channels.narrow(model, found, {"b": torch.tensor([0, 2, 3, 4, 5])})
    left = [i for i in range(13) if i != 8]
    assert torch.equal(thin.head[2].weight, model.head[2].weight[:, left])
    assert (thin.bn.num_features, thin.head[2].in_features) == (5, 12)


@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        (
            "transformer's two linear layers",
            "a",
            "norm averages over these channels: without one the others would change",
        ),
        ("attention", "a", "att reads and writes one width"),
        ("zeros for new channels", "b", "it is combined with channels that must stay"),
    ],
)
def test_what_must_stay_says_why(name, layer, why):
    assert reasons(NETS[name])[layer] == why


FROZEN = {
    "the size 384 is written into view": (lambda m, x: m.fc(m.a(x).view(-1, 384)), {"fc": nn.Linear(384, 4)}),
    "the size 6 is written into reshape": (
        lambda m, x: m.fc(m.a(x).reshape(x.size(0), 6, -1).mean(2)), {"fc": nn.Linear(6, 4)},
    ),
    "getitem takes or reorders some": (lambda m, x: m.fc(m.a(x)[:, :3].mean((2, 3))), {"fc": nn.Linear(3, 4)}),
    "roll takes or reorders some": (lambda m, x: m.fc(m.a(x).roll(1, 1).mean((2, 3))), {"fc": nn.Linear(6, 4)}),
    "the size 2 is written into split": (
        lambda m, x: m.fc(m.a(x).split(2, 1)[1].mean((2, 3))), {"fc": nn.Linear(2, 4)},
    ),
    "chunk makes unequal parts": (
        lambda m, x: m.fc(torch.cat([m.a(x), x], 1).chunk(2, 1)[0].mean((2, 3))), {"fc": nn.Linear(5, 4)},
    ),
    "softmax sums over these": (lambda m, x: m.fc(m.a(x).mean((2, 3)).softmax(1)), {"fc": nn.Linear(6, 4)}),
    "it is reduced over its channels": (lambda m, x: m.fc(m.a(x).mean(1).flatten(1)), {"fc": nn.Linear(64, 4)}),
    "mul uses a number that was computed": (
        lambda m, x: (lambda y: m.fc((y * y.size(1)).mean((2, 3))))(m.a(x)), {"fc": nn.Linear(6, 4)},
    ),
    "it is combined with a tensor whose": (
        lambda m, x: m.fc((m.a(x) * m.fc.weight.sum(0)[:6, None, None]).mean((2, 3))), {"fc": nn.Linear(6, 4)},
    ),
    "it meets another layout": (
        lambda m, x: m.fc((lambda y: y + y.permute(0, 3, 2, 1))(m.a(x)[..., :6]).mean((2, 3))),
        {"fc": nn.Linear(6, 4)},
    ),
    r"up \(ConvTranspose2d\) is not known": (
        lambda m, x: m.fc(m.up(m.a(x)).mean((2, 3))), {"up": nn.ConvTranspose2d(6, 6, 2), "fc": nn.Linear(6, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", FROZEN)
def test_it_leaves_alone_what_it_cannot_follow(why):
    forward, layers = FROZEN[why]
    model = net(forward, a=conv(3, 6), **layers)
    assert "a" not in sizes(model)
    with pytest.raises(ModelOptError, match=f"channels of a can't be cut: {why}"):
        channels.narrow(model, channels.groups(model, IMAGE[:1]), {"a": torch.tensor([0])})
    assert channels.cut(model, IMAGE[:1], 0.5)(IMAGE).shape == (2, 4)


def test_a_layer_whose_weight_is_read_by_itself_stays():
    model = net(lambda m, x: F.linear(m.b(m.a(x.mean((2, 3)))), m.a.weight.t()), a=nn.Linear(3, 6), b=nn.Linear(6, 6))
    assert (sizes(model), reasons(model)["a"]) == ({}, "its weight is read by t")


def test_channels_that_part_are_two_groups():
    """c is made first; a sum with a concatenation ties its first four channels to a's and the others to b's."""
    model = net(
        lambda m, x: m.head(F.relu(m.c(x) + torch.cat([m.a(x), m.b(x)], 1))),
        a=conv(3, 4),
        b=conv(3, 6, 3),
        c=conv(3, 10),
        head=head(10),
    )
    assert sizes(model) == {"c": 4, "c[4]": 6}


def test_a_model_in_training_mode_is_not_touched():
    model = net(lambda m, x: m.head(m.bn(m.a(x))), a=conv(3, 4), bn=nn.BatchNorm2d(4), head=head(4)).train()
    before = model.bn.running_mean.clone()
    thin = channels.cut(model, IMAGE, 0.5)
    assert torch.equal(before, model.bn.running_mean)
    assert model.training
    assert not thin.training


def test_attention_without_some_heads_refuses_what_it_cannot_do():
    thin = channels.cut(NETS["attention"], IMAGE[:1], 0.5)
    tokens = torch.zeros(1, 3, 8)
    assert thin.att.num_heads == 2
    with pytest.raises(ModelOptError, match="takes no mask; call it with need_weights=False"):
        thin.att(tokens, tokens, tokens)


def test_a_model_that_insists_on_its_width_is_one_sentence():
    def forward(m, x):
        x = m.a(x)
        torch._assert(x.shape[1] == 6, "six channels, please")
        return m.head(x)

    with pytest.raises(ModelOptError, match=r"Net refuses fewer channels \(six channels, please\); prune its parts"):
        channels.cut(net(forward, a=conv(3, 6), head=head(6)), IMAGE[:1], 0.5)
