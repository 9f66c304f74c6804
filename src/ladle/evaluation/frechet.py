"""The Frechet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017, arXiv 1706.08500;
for text: Semeniuta et al. 2018, arXiv 1806.04936)."""

import numpy as np


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features [N, C] and [R, C], in squared units of the features.

    Few texts and many channels bias the distance upwards, so compare only sets of the same size. A set of fewer than
    two texts has covariance zero. An empty set is infinitely far.
    """
    if not len(features) or not len(reference):
        return float("inf")
    (mean, root), (other_mean, other_root) = (_moments(part) for part in (features, reference))
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2); the roots are symmetric.
    mixed = np.linalg.svd(root @ other_root, compute_uv=False).sum()
    spread = np.square(root).sum() + np.square(other_root).sum() - 2 * mixed
    return float(np.square(mean - other_mean).sum() + max(spread, 0.0))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [C] and the symmetric root of the covariance [C, C], in float64."""
    x = np.asarray(features, dtype=np.float64)
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    return x.mean(axis=0), (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
