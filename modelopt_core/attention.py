"""Multi-head attention that has lost heads."""

from __future__ import annotations

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
        if (
            masks
            or options.get("need_weights", True)
            or any(options.get(o) is not None for o in ("attn_mask", "key_padding_mask"))
        ):
            raise ModelOptError("attention that has lost heads takes no mask; call it with need_weights=False")
        split = (self.num_heads, self.head_dim)
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs = (query, key, value) if self.batch_first else (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, split).transpose(1, 2)  # (B, heads, T, head_dim)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1), None
