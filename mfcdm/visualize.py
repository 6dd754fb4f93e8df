"""Pictures of clouds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mfcdm.atomic import whole

ELEVATION, AZIMUTH = 25.0, 40.0  # degrees; shows the top, the front and one side of shapes whose y axis is up
MARK = "tab:red"


def draw_clouds(
    path: str | Path,
    rows: Sequence[Sequence[Tensor]],
    titles: Sequence[str] = (),
    *,
    marked: Sequence[Sequence[int]] = (),
    aligned: bool = False,
    max_points: int = 8192,
    inches: float = 2.2,
) -> Path:
    """Draw rows of clouds from one side, nearer points darker, and write a png.

    Args:
        path: of the picture.
        rows: clouds (N, D), D = 2 or 3; 3-D clouds have y up.
        titles: one a row, or none.
        marked: so many first points of each cloud, row by row, are red; none for none.
        aligned: all clouds of a column are seen through one window, that of the lowest.
        max_points: a larger cloud shows its first points; one with marked points an even share of both kinds.
        inches: side of one cloud's panel.

    Returns:
        the path.

    Raises:
        ValueError: if there is no cloud, or a cloud is not (N, 2) or (N, 3).
    """
    if not rows or not all(rows):
        raise ValueError("a picture needs at least one cloud in every row")
    width = max(len(row) for row in rows)
    figure = Figure(figsize=(inches * width, inches * len(rows)), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), width, squeeze=False, gridspec_kw={"wspace": 0, "hspace": 0.02})
    lowest = {c: cloud for row in rows for c, cloud in enumerate(row)}  # cloud of each column
    for r, row in enumerate(rows):
        for axis in axes[r]:
            axis.set_axis_off()
        for c, cloud in enumerate(row):
            points, count = _shown(cloud, marked[r][c] if marked else 0, max_points)
            framed, _ = _shown(lowest[c], 0, len(lowest[c])) if aligned else (points, 0)
            _draw(axes[r, c], points, count, framed)
        if r < len(titles):
            axes[r, 0].set_title(titles[r], loc="left", fontsize=9)
    figure.subplots_adjust(0, 0, 1, 0.95 if titles else 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
    return path


def _shown(cloud: Tensor, count: int, max_points: int) -> tuple[NDArray[np.float64], int]:
    """At most so many points of a cloud, and how many of them, the first, are among its first `count`."""
    points = cloud.detach().cpu().double().numpy()
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"a cloud must be (N, 2) or (N, 3) to be drawn, got {points.shape}")
    if len(points) <= max_points or count == 0:
        return points[:max_points], count
    kept = np.linspace(0, len(points) - 1, max_points).astype(int)
    return points[kept], int((kept < count).sum())


def _draw(axis, points: NDArray[np.float64], count: int, framed: NDArray[np.float64]) -> None:  # type: ignore[no-untyped-def]
    """Draw points, the first `count` in red on top, in the window that fits the points of `framed`."""
    flat, depth = _seen(points)
    frame, _ = _seen(framed)
    center = (frame.max(axis=0) + frame.min(axis=0)) / 2
    # The panel fits all but the furthest half percent: one stray point must not shrink the shape to a dot.
    reach = max(np.quantile(np.abs(frame - center).max(axis=1), 0.995) * 1.08, 1e-6)
    order = count + np.argsort(depth[count:])  # far to near
    size = np.clip(900.0 / len(points), 0.15, 8.0)
    axis.scatter(*flat[order].T, c=depth[order], s=size, cmap="viridis_r", linewidths=0)
    axis.scatter(*flat[:count].T, c=MARK, s=size, linewidths=0)
    axis.set(xlim=(center[0] - reach, center[0] + reach), ylim=(center[1] - reach, center[1] + reach), aspect="equal")


def _seen(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Picture coordinates (N, 2) and nearness (N,); points in the plane are all as near."""
    return project(points) if points.shape[1] == 3 else (points, np.zeros(len(points)))


def project(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthographic view of points (N, 3) with y up: picture coordinates (N, 2) and nearness (N,)."""
    azimuth, elevation = np.deg2rad(AZIMUTH), np.deg2rad(ELEVATION)
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    forward = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    return points @ np.stack([right, np.cross(forward, right)], axis=1), points @ forward
