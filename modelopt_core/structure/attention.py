"""Multi-head attention that has lost heads, or whose projections can be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError


class FewerHeads(nn.MultiheadAttention):
    """(B, T, E) -> (B, T, E) with num_heads · head_dim < E.

    PyTorch's own forward asks that the heads fill the width. channels.py gives a layer this class when it cuts heads;
    parameters keep their names: in_proj_weight (3 · heads · head_dim, E), out_proj.weight (E, heads · head_dim).

    Source: Vaswani et al., Attention is all you need, arXiv 1706.03762; Michel et al., Are sixteen heads really better
    than one?, arXiv 1905.10650.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **options: Any) -> tuple[Tensor, None]:
        """Attention without masks; its weights are not returned: call with need_weights=False."""
        if not plain(masks, options):
            raise ModelOptError("attention that has lost heads takes no mask; call it with need_weights=False")
        return self.attend(query, key, value), None

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(q · kᵀ / √head_dim) · v of every head, projected back to the width."""
        inputs = (query, key, value) if self.batch_first else (t.transpose(0, 1) for t in (query, key, value))
        split = (self.num_heads, self.head_dim)
        q, k, v = (x.unflatten(-1, split).transpose(1, 2) for x in self.project(*inputs))  # (B, heads, T, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1)

    def project(self, *inputs: Tensor) -> Iterator[Tensor]:
        """Queries, keys and values (B, T, heads · head_dim)."""
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return (F.linear(x, w, b) for x, w, b in zip(inputs, self.in_proj_weight.chunk(3), biases, strict=True))


class Opened(FewerHeads):
    """The same attention; its projections are linear layers `q`, `k` and `v`, for hooks to see.

    Masked calls are PyTorch's own, and are not seen.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **options: Any) -> Any:
        """As before it was opened."""
        if plain(masks, options):
            return self.attend(query, key, value), None
        whole = nn.MultiheadAttention if self.num_heads * self.head_dim == self.embed_dim else FewerHeads
        return whole.forward(self, query, key, value, *masks, **options)

    def project(self, *inputs: Tensor) -> Iterator[Tensor]:
        """Queries, keys and values (B, T, heads · head_dim)."""
        return (self.get_submodule(name)(x) for name, x in zip("qkv", inputs, strict=True))


def open_heads(model: nn.Module) -> list[str]:
    """Open every attention layer of a private copy, in place; returns their names. Those of other widths are left."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    opened = [name for name, layer in found.items() if layer._qkv_same_embed_dim]
    for layer in (found[name] for name in opened):
        biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip("qkv", layer.in_proj_weight.detach().chunk(3), biases, strict=True):
            outputs, inputs = weight.shape
            linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
            linear.weight = nn.Parameter(weight)
            linear.bias = None if bias is None else nn.Parameter(bias)
            layer.add_module(name, linear)
        layer.__class__ = Opened
    return opened


def plain(masks: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """A call without masks that does not ask for the attention weights."""
    asked = [options.get(name) for name in ("attn_mask", "key_padding_mask")]
    return (
        not masks
        and options.get("need_weights", True) is False
        and not options.get("is_causal")
        and not any(mask is not None for mask in asked)
    )
