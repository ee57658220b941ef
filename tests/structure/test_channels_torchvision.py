"""torchvision's classifiers with random weights, no hints: 30 % of the channels go, and the rest computes the same."""

import onnxruntime
import pytest
import torch
from torch import nn

from modelopt_core.machine.torchvision_cpu import import_torchvision
from modelopt_core.runtime.onnx_export import onnx_bytes
from modelopt_core.structure import channels
from modelopt_core.structure.layer_table import macs
from tests.structure.test_channels import masked

# Network: least share of the parameters and of the multiply–accumulates that must go. Where every channel is free,
# 30 % of the channels are 1 − 0.7² = 51 % of a layer. googlenet keeps the auxiliary heads that only training uses;
# seven rounds of halving and shuffling tie all channels of shufflenet's third stage to each other; layer norm averages
# over the residual stream of convnext, vit and swin, where the widths of the MLPs go (in vit, heads of attention too).
SHARES = {
    "resnet18": (0.48, 0.40),
    "resnet50": (0.48, 0.40),
    "mobilenet_v3_small": (0.38, 0.40),
    "efficientnet_b0": (0.42, 0.40),
    "densenet121": (0.45, 0.40),
    "convnext_tiny": (0.25, 0.25),
    "squeezenet1_0": (0.38, 0.40),
    "shufflenet_v2_x1_0": (0.35, 0.38),
    "googlenet": (0.22, 0.40),
    "inception_v3": (0.40, 0.40),
    "regnet_y_400mf": (0.43, 0.40),
    "mnasnet1_0": (0.40, 0.40),
    "vgg11_bn": (0.45, 0.40),
    "vit_b_16": (0.28, 0.15),
    "swin_t": (0.17, 0.15),
}
SIDES = {"inception_v3": 96, "vgg11_bn": 224}  # at least 75; a size whose 7 × 7 pooling ONNX can express


def network(name: str, side: int) -> nn.Module:
    """Random weights, batch norms and branches that do something, a head that is not zero."""
    options = {"vit_b_16": {"image_size": side}, "googlenet": {"init_weights": False}}
    options["inception_v3"] = options["googlenet"]  # its own takes seconds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(import_torchvision().models, name)(weights=None, **options.get(name, {})).eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight.data, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias.data, layer.running_mean):
                    tensor.normal_(std=0.1)
            elif isinstance(layer, nn.Linear):
                layer.weight.data.normal_(std=0.02)
            elif isinstance(layer, nn.MultiheadAttention):
                layer.in_proj_bias.data.normal_(std=0.1)
            elif hasattr(layer, "layer_scale"):
                layer.layer_scale.data.fill_(0.5)  # 1e-6 would hide what its branch computes
    return model


@pytest.mark.parametrize("name", SHARES)
def test_thirty_percent_of_the_channels_go(name):
    side = SIDES.get(name, 64)
    model, image = network(name, side), torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    thin = channels.cut(model, image, ratio=0.3)
    found = channels.groups(model, image)
    keep = {g.name: channels.strongest(channels.weights(model, g).abs().sum(1), 0.3) for g in found if not g.frozen}
    with torch.no_grad():
        full, before, after = model(image), masked(model, found, keep)(image), thin(image)
    scale = before.abs().max()
    assert after.shape == (1, 1000)
    assert torch.isfinite(after).all()
    torch.testing.assert_close(after / scale, before / scale, atol=1e-5, rtol=0)
    assert (full - before).abs().max() > 1e-3 * scale  # what went had a say

    session = onnxruntime.InferenceSession(onnx_bytes(thin, image))
    exported = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(exported / scale, after / scale, atol=1e-4, rtol=0)

    parameters, products = SHARES[name]
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, thin)]
    assert 1 - sizes[1] / sizes[0] > parameters
    assert 1 - macs(thin, image) / macs(model, image) > products


@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        ("convnext_tiny", "features.0.0", "layer_norm averages over these channels"),
        ("shufflenet_v2_x1_0", "stage3.0.branch1.2", "all of its channels are tied to each other"),
        ("vit_b_16", "conv_proj", "the size 768 is written into reshape"),
        ("swin_t", "features.1.0.attn.qkv", "its weight is read by shifted_window_attention"),
        ("resnet18", "fc", "it is the model's output"),
    ],
)
def test_it_says_what_it_left_alone(name, layer, why):
    frozen = {g.name: g.frozen for g in channels.groups(network(name, 64), torch.zeros(1, 3, 64, 64)) if g.frozen}
    assert frozen[layer].startswith(why)
