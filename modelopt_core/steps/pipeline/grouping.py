"""Which labels are confused: what a workload's groups are made from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError


def confused(said: Tensor, targets: Tensor, groups: int) -> tuple[tuple[int, ...], ...]:
    """Log-probabilities (N, K), targets (N,) -> so many groups of labels, those together that a model confuses.

    Average linkage over 1 − the mean probability that one label gets where another is true, both ways added.
    Source: Yan et al., HD-CNN: Hierarchical Deep Convolutional Neural Networks, arXiv 1410.0736, sec. 4.1 (it clusters
    the confusion matrix of a trained network; the clustering here is a simpler one).
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    k = said.shape[1]
    if not 2 <= groups <= k:
        raise ModelOptError(f"{groups} groups of {k} labels are not possible; choose from 2 to {k}")
    seen = torch.bincount(targets, minlength=k).clamp_min(1)[:, None]
    mean = torch.zeros(k, k).index_add(0, targets, said.exp()) / seen  # (K true, K said)
    both = (mean + mean.T).double().numpy()
    np.fill_diagonal(both, 0)
    distance = 1 - both / max(both.max(), 1e-12)
    np.fill_diagonal(distance, 0)
    cluster = fcluster(linkage(squareform(distance, checks=False), "average"), groups, "maxclust")
    found = [tuple(int(i) for i in np.flatnonzero(cluster == c)) for c in np.unique(cluster)]
    return tuple(sorted(found))
