"""Rounding one input's weights at a time; the weights of the inputs to come make up for the error."""

from __future__ import annotations

import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.quantize.roundings import ROUNDINGS, RoundingContext

DAMPING = 0.01  # share of the mean square of an input, added to every one's
BLOCK = 32  # columns after which the later ones learn of the errors


@ROUNDINGS.register("gptq", needs_data=True, iterative=False)
def gptq(c: RoundingContext) -> Tensor:
    """Column after column to the nearest point, its error spread over the later columns: weight (R, n) -> codes (R, n).

    With H = XᵀX over the inputs X and U the upper Cholesky factor of H⁻¹, rounding column i with the error e_i moves
    the later ones by −(e_i / U_ii) U_i,: . Columns with large inputs go first.

    Source: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers,
    arXiv 2210.17323.
    """
    if c.inputs is None:
        raise ModelOptError("gptq rounds by what reaches a layer, and no inputs were given; use 'nearest' without data")
    order = c.inputs.square().sum(dim=0).argsort(descending=True, stable=True)
    upper = _inverse_factor(c.inputs[:, order])
    gone = torch.zeros_like(c.weight, dtype=torch.bool) if c.gone is None else c.gone
    parts = (t.expand_as(c.weight)[:, order].T.contiguous() for t in (c.weight, c.scale, c.zero_point, gone))
    left, scale, zero_point, gone = parts  # (n, R): one input's weights lie together in memory
    codes = torch.empty_like(left)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = torch.empty_like(left[start:stop])
        for i in range(start, stop):
            q = torch.round(left[i] / scale[i] + zero_point[i]).clamp_(0, c.levels - 1)
            q = torch.where(gone[i], zero_point[i], q)  # its error is what the earlier columns wanted of it
            error = (left[i] - (q - zero_point[i]) * scale[i]) / upper[i, i]
            left[i + 1 : stop].addr_(upper[i, i + 1 : stop], error, alpha=-1)
            codes[i], errors[i - start] = q, error
        left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return torch.empty_like(codes).index_copy_(0, order, codes).T


def _inverse_factor(inputs: Tensor) -> Tensor:
    """(N, n) -> U (n, n), upper, with UᵀU = (XᵀX / N + λI)⁻¹.

    Where L Lᵀ is the matrix with its rows and columns in reverse, U is L⁻¹ in reverse.
    """
    square = inputs.T @ inputs / max(1, len(inputs))
    square.diagonal().add_(DAMPING * square.diagonal().mean().clamp(min=torch.finfo(square.dtype).eps))
    lower = torch.linalg.cholesky(square.flip(0, 1))
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False).flip(0, 1)
