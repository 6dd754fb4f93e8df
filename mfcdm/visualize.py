"""Pictures of clouds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mfcdm.atomic import whole

ELEVATION, AZIMUTH = 25.0, 40.0  # degrees; shows the top, the front and one side of shapes whose y axis is up
MARK = "tab:red"
BALLS = 14000.0  # points^2 of ink that a cloud's balls share
COLORS = 128  # of a picture, which takes a quarter of the bytes that all of them would
LEAST_HEIGHT = 0.4  # of a row over a panel's width
TITLE_INCHES = 0.2


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
    lowest = {c: cloud for row in rows for c, cloud in enumerate(row)}  # cloud of each column
    shown = [
        [_shown(cloud, marked[r][c] if marked else 0, max_points) for c, cloud in enumerate(row)]
        for r, row in enumerate(rows)
    ]
    windows = [
        [Window.of(_shown(lowest[c], 0, len(lowest[c]))[0] if aligned else points) for c, (points, _) in enumerate(row)]
        for row in shown
    ]
    heights = [max(window.height for window in row) for row in windows]  # of the rows, over their panels' width
    top = TITLE_INCHES if titles else 0.0
    size = (inches * width, inches * sum(heights) + top)
    figure = Figure(figsize=size, facecolor="white", dpi=110)
    canvas = FigureCanvasAgg(figure)
    grid = {"wspace": 0, "hspace": 0, "height_ratios": heights}
    axes = figure.subplots(len(rows), width, squeeze=False, gridspec_kw=grid)
    for r, row in enumerate(shown):
        for axis in axes[r]:
            axis.set_axis_off()
        for c, (points, count) in enumerate(row):
            _draw(axes[r, c], points, count, windows[r][c], heights[r])
        if r < len(titles):
            axes[r, 0].text(0.02, 1.0, titles[r], transform=axes[r, 0].transAxes, fontsize=9, va="top")
    figure.subplots_adjust(0, 0, 1, 1 - top / size[1])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLORS)
    with whole(path) as scratch:
        picture.save(scratch, format="png", optimize=True)
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


@dataclass(frozen=True)
class Window:
    """The part of the plane that a panel shows: its centre, half of its width, and its least height over its width."""

    center: NDArray[np.float64]
    reach: float
    height: float

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> "Window":
        """That of a cloud (N, D). All but the furthest half percent fits: one stray point must not shrink the shape."""
        flat, _ = _seen(points)
        center = (flat.max(axis=0) + flat.min(axis=0)) / 2
        away = np.abs(flat - center)
        reach = max(np.quantile(away.max(axis=1), 0.995) * 1.12, 1e-6)
        return cls(center, reach, float(np.clip(np.quantile(away[:, 1], 0.995) * 1.25 / reach, LEAST_HEIGHT, 1.0)))


def _draw(axis, points: NDArray[np.float64], count: int, window: Window, height: float) -> None:  # type: ignore[no-untyped-def]
    """Draw points as little balls, far to near, the first `count` in red on top, in a panel of that height."""
    flat, depth = _seen(points)
    order = count + np.argsort(depth[count:])
    nearness = (depth - depth.min()) / max(np.ptp(depth), 1e-12)
    fill = _colors(nearness)
    size = np.clip(BALLS / len(points), 0.4, 40.0)
    look = {"s": size, "linewidths": 0.16 * np.sqrt(size)}
    axis.scatter(*flat[order].T, c=fill[order], edgecolors=0.55 * fill[order], **look)
    axis.scatter(*flat[:count].T, c=MARK, edgecolors="darkred", **look)
    (x, y), reach = window.center, window.reach
    axis.set(xlim=(x - reach, x + reach), ylim=(y - reach * height, y + reach * height), aspect="equal")


def _colors(nearness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red, green and blue (N, 3) of points from far, 0, to near, 1: pale to dark, so that depth is seen on white."""
    return np.asarray(colormaps["viridis"](0.78 - 0.66 * nearness))[:, :3]


def _seen(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Picture coordinates (N, 2) and nearness (N,); points in the plane are all as near."""
    return project(points) if points.shape[1] == 3 else (points, np.zeros(len(points)))


def project(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthographic view of points (N, 3) with y up: picture coordinates (N, 2) and nearness (N,)."""
    azimuth, elevation = np.deg2rad(AZIMUTH), np.deg2rad(ELEVATION)
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    forward = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    return points @ np.stack([right, np.cross(forward, right)], axis=1), points @ forward
