"""F-score: how much of each cloud lies near the other."""

import torch
from torch import Tensor

from mfcdm.metrics.arguments import paired, result_dtype
from mfcdm.metrics.chamfer import nearest_indices


@torch.no_grad()
def f_score(
    x: Tensor, y: Tensor, threshold: float, lengths_x: Tensor | None = None, lengths_y: Tensor | None = None
) -> Tensor:
    """Harmonic mean of precision and recall at a distance (1 is best).

    F = 2 P R / (P + R), where P is the share of x's points at most `threshold` from y, and R that of y's points from x;
    0 where both are 0. The clouds may differ in cardinality. It jumps where a distance passes the threshold, so it has
    no gradient.

    Args:
        x: (B, N, D), the generated clouds.
        y: (B, M, D), the real ones.
        threshold: a Euclidean distance, > 0, in the units of the coordinates; common is 1 % of a shape's longest side.
        lengths_x: (B,) rows that each cloud of x owns; padding may be NaN.
        lengths_y: (B,) rows that each cloud of y owns.

    Returns:
        (B,) in [0, 1]; float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the threshold is no positive number, the shapes do not fit, a cloud is empty, or a coordinate is
            not finite.

    Source: Knapitsch et al., Tanks and Temples (2017); Tatarchenko et al., What do single-view 3D reconstruction
    networks learn? (2019).
    """
    if not 0 < threshold < float("inf"):
        raise ValueError(f"threshold must be a positive distance, but is {threshold}")
    scores = []
    for x_b, y_b in paired(x, y, lengths_x, lengths_y):
        precision, recall = _share_near(x_b, y_b, threshold), _share_near(y_b, x_b, threshold)
        scores.append(2 * precision * recall / (precision + recall).clamp_min(torch.finfo(x_b.dtype).tiny))
    return torch.stack(scores) if scores else torch.zeros(0, dtype=result_dtype(x, y), device=x.device)


def _share_near(x: Tensor, y: Tensor, threshold: float) -> Tensor:
    distance = torch.linalg.vector_norm(x - y[nearest_indices(x, y)], dim=-1)  # (N,)
    return (distance <= threshold).to(x.dtype).mean()
