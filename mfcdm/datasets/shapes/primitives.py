"""Building blocks: each function returns triangles (F, 3, 3), so that joining parts is `np.concatenate`.

Y is up. Every curved block is a loft: rings of points, joined from one ring to the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_AXES = {"x": 0, "y": 1, "z": 2}


def angles(sides: int, start: float = 0.0) -> Array:
    """The angles of a regular polygon's corners, (sides,), from `start`, in radians."""
    return start + np.linspace(0, 2 * np.pi, sides, endpoint=False)


def loft(rings: ArrayLike, caps: tuple[bool, bool] = (True, True), closed: bool = False) -> Array:
    """Join closed rings of points, each with the next, by two triangles a quadrilateral.

    Args:
        rings: (S, K, 3): S rings of K points; the last point of a ring is joined with its first.
        caps: whether the first and the last ring are filled, as fans around their centroids (exact for rings that
            are planar and star-shaped around it).
        closed: whether the last ring is joined with the first; there are no caps then.

    Returns:
        Triangles: 2 (S - 1) K of the side (2 S K if closed), then K for each cap; fewer where a ring is a point.
    """
    rings = np.asarray(rings, dtype=np.float64)  # (S, K, 3)
    upper = np.roll(rings, -1, axis=0) if closed else rings[1:]
    lower = rings if closed else rings[:-1]
    lower_next, upper_next = np.roll(lower, -1, axis=1), np.roll(upper, -1, axis=1)
    parts = [
        np.stack([lower, lower_next, upper_next], axis=2).reshape(-1, 3, 3),
        np.stack([lower, upper_next, upper], axis=2).reshape(-1, 3, 3),
    ]
    parts += [fan(ring) for ring, cap in ((rings[0], caps[0]), (rings[-1], caps[1])) if cap and not closed]
    triangles = np.concatenate(parts)
    # a ring that shrinks to a point leaves triangles with two equal corners: nothing but weight
    distinct = (triangles != np.roll(triangles, 1, axis=1)).any(axis=2).all(axis=1)  # (F,)
    return triangles[distinct]


def fan(ring: Array) -> Array:
    """Fill a ring (K, 3) with the K triangles that join its edges with its centroid."""
    centre = np.broadcast_to(ring.mean(axis=0), ring.shape)
    return np.stack([ring, np.roll(ring, -1, axis=0), centre], axis=1)


def box(size: ArrayLike, centre: ArrayLike = (0, 0, 0)) -> Array:
    """A box of sides `size` (3,) around `centre` (3,): 16 triangles."""
    x, y, z = np.asarray(size, dtype=np.float64)
    rectangle = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return move(move(prism(rectangle * [x, z], y), [0, -y / 2, 0]), centre)


def prism(outline: ArrayLike, height: float) -> Array:
    """A polygon in the plane y = 0, extruded upwards.

    Args:
        outline: corners (x, z), (K, 2), star-shaped around their mean.
        height: of the prism, which stands on y = 0.

    Returns:
        Triangles, (4 K, 3, 3).
    """
    outline = np.asarray(outline, dtype=np.float64)  # (K, 2)
    ring = np.insert(outline, 1, 0.0, axis=1)  # (K, 3)
    return loft(np.stack([ring, move(ring, [0, height, 0])]))


def cushion(outline: ArrayLike, height: float, edge: float) -> Array:
    """A prism (see `prism`) whose upper and lower edges are cut off: `edge` wide and a third of the height high."""
    outline = np.asarray(outline, dtype=np.float64)  # (K, 2)
    inner = outline * (1 - edge / np.abs(outline).max(axis=0))
    levels = [(inner, 0.0), (outline, height / 3), (outline, 2 * height / 3), (inner, height)]
    return loft(np.stack([np.insert(ring, 1, y, axis=1) for ring, y in levels]))


def superellipse(half_x: float, half_z: float, exponent: float = 2.0, sides: int = 48) -> Array:
    """Corners on |x / half_x|^p + |z / half_z|^p = 1, (sides, 2): an ellipse for p = 2, a rectangle for large p."""
    a = angles(sides, start=np.pi / sides)
    cosine, sine = np.cos(a), np.sin(a)
    radius = (np.abs(cosine) ** exponent + np.abs(sine) ** exponent) ** (-1 / exponent)  # (sides,)
    return np.stack([half_x * radius * cosine, half_z * radius * sine], axis=1)


def lathe(
    profile: ArrayLike,
    sides: int = 32,
    axis: str = "y",
    closed: bool = False,
    ripple: Array | None = None,
) -> Array:
    """Turn a profile around an axis.

    Args:
        profile: (radius, position along the axis), (S, 2); radius 0 closes the surface on the axis.
        sides: the polygon that stands for a circle.
        axis: "x", "y" or "z".
        closed: whether the last profile point is joined with the first: a shell with thickness, or a torus.
        ripple: (sides,) factors of the radius: pleats. None means 1.

    Returns:
        Triangles, (F, 3, 3), open at both ends unless a radius there is 0.
    """
    radius, height = np.asarray(profile, dtype=np.float64).T  # (S,) each
    a, factor = angles(sides, start=np.pi / sides), np.ones(sides) if ripple is None else ripple
    circle = np.stack([factor * np.sin(a), np.zeros(sides), factor * np.cos(a)], axis=1)  # (K, 3)
    rings = radius[:, None, None] * circle + height[:, None, None] * np.array([0.0, 1.0, 0.0])  # (S, K, 3)
    return loft(np.roll(rings, _AXES[axis] - 1, axis=-1), caps=(False, False), closed=closed)


def cylinder(radius: float, height: float, sides: int = 24, axis: str = "y", top_radius: float | None = None) -> Array:
    """A cylinder or a frustum with both discs, from 0 to `height` along the axis."""
    top = radius if top_radius is None else top_radius
    return lathe([(0, 0), (radius, 0), (top, height), (0, height)], sides, axis)


def ellipsoid(radii: ArrayLike, centre: ArrayLike = (0, 0, 0), sides: int = 20, rings: int = 11) -> Array:
    """An ellipsoid inscribed polyhedron with half axes `radii` (3,) around `centre` (3,)."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rings)
    profile = np.stack([np.cos(latitude), np.sin(latitude)], axis=1)
    profile[[0, -1], 0] = 0  # the poles, exactly on the axis
    return move(lathe(profile, sides) * np.asarray(radii, dtype=np.float64), centre)


def torus(radius: float, tube_radius: float, sides: int = 32, tube_sides: int = 10, axis: str = "y") -> Array:
    """A torus around the axis: circles of `tube_radius` at the distance `radius`."""
    a = angles(tube_sides)
    return lathe(
        np.stack([radius + tube_radius * np.cos(a), tube_radius * np.sin(a)], axis=1), sides, axis, closed=True
    )


def tube(
    path: ArrayLike,
    radius: float | ArrayLike,
    sides: int = 10,
    flatten: float = 1.0,
    closed: bool = False,
) -> Array:
    """Sweep an elliptic section along a path.

    The section's first axis is the coordinate axis that the path follows least, made perpendicular to the path: for a
    curve in a coordinate plane that is the plane's normal, so the section does not twist.

    Args:
        path: (S, 3), S >= 2. It must nowhere run along the axis that it follows least.
        radius: of the section, a number or (S,).
        sides: of the section.
        flatten: the section's half axis along its first axis is `flatten * radius`.
        closed: whether the path returns to its start.

    Returns:
        Triangles, (F, 3, 3), with both ends filled unless closed.
    """
    path = np.asarray(path, dtype=np.float64)  # (S, 3)
    forward = np.roll(path, -1, axis=0) - path  # (S, 3)
    forward /= np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-300)
    if closed:
        tangent = forward + np.roll(forward, 1, axis=0)
    else:
        tangent = np.concatenate([forward[:1], forward[1:-1] + forward[:-2], forward[-2:-1]])
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    reference = np.eye(3)[np.abs(tangent).max(axis=0).argmin()]  # (3,)
    second = np.cross(tangent, reference)  # (S, 3)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    first = np.cross(second, tangent)  # (S, 3)
    a = angles(sides, start=np.pi / sides)[:, None]  # (K, 1)
    section = flatten * np.cos(a) * first[:, None] + np.sin(a) * second[:, None]  # (S, K, 3)
    scale = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(path))[:, None, None]
    return loft(path[:, None] + scale * section, closed=closed)


def rod(start: ArrayLike, end: ArrayLike, radius: float | ArrayLike, sides: int = 8) -> Array:
    """A straight tube from `start` to `end` (3,); `radius` is a number or the two ends' (2,)."""
    return tube(np.stack([start, end]), radius, sides)


def beam(start: ArrayLike, end: ArrayLike, width: float, end_width: float | None = None) -> Array:
    """A straight bar with a square section of side `width` at `start` and `end_width` (default: the same) at `end`."""
    ends = np.array([width, width if end_width is None else end_width]) / np.sqrt(2)
    return tube(np.stack([start, end]), ends, sides=4)


def curve(control: ArrayLike, num_points: int = 16) -> Array:
    r"""Points on the Bezier curve of some control points, sum_i binom(n, i) s^i (1 - s)^(n - i) control_i.

    Args:
        control: (n + 1, D).
        num_points: at equally spaced s in [0, 1].

    Returns:
        (num_points, D), from the first control point to the last.
    """
    points = np.broadcast_to(np.asarray(control, dtype=np.float64), (num_points, *np.shape(control)))
    s = np.linspace(0, 1, num_points)[:, None, None]
    while points.shape[1] > 1:  # de Casteljau: average neighbours until one point is left
        points = (1 - s) * points[:, :-1] + s * points[:, 1:]
    return points[:, 0]


def rounded(corners: ArrayLike, radius: float, steps: int = 5) -> Array:
    """A polyline whose inner corners are replaced by arcs of parabolas.

    Args:
        corners: (K, D), the first and the last of which are kept.
        radius: how far from its corner each arc begins.
        steps: points of each arc.

    Returns:
        ((K - 2) steps + 2, D).
    """
    corners = np.asarray(corners, dtype=np.float64)  # (K, D)
    before, at, after = corners[:-2], corners[1:-1], corners[2:]
    first = at + radius * _unit(before - at)
    last = at + radius * _unit(after - at)
    s = np.linspace(0, 1, steps)[:, None]  # (steps, 1)
    arcs = (1 - s) ** 2 * first[:, None] + 2 * s * (1 - s) * at[:, None] + s**2 * last[:, None]  # (K - 2, steps, D)
    return np.concatenate([corners[:1], arcs.reshape(-1, corners.shape[1]), corners[-1:]])


def move(points: Array, offset: ArrayLike) -> Array:
    """Translate triangles, or other points (..., D), by `offset` (D,)."""
    return points + np.asarray(offset, dtype=np.float64)


def rotate(triangles: Array, axis: str, angle: float) -> Array:
    """Rotate triangles by `angle` radians around a coordinate axis ("x", "y" or "z"), counter-clockwise."""
    i, j = (_AXES[axis] + 1) % 3, (_AXES[axis] + 2) % 3
    rotation = np.eye(3)
    rotation[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return triangles @ rotation.T


def mirrored(triangles: Array) -> Array:
    """The triangles and their reflection in the plane x = 0, (2 F, 3, 3)."""
    return np.concatenate([triangles, triangles * [-1, 1, 1]])


def around(triangles: Array, copies: int, start: float = 0.0, axis: str = "y") -> Array:
    """Copies of the triangles turned around a coordinate axis by equal angles, the first by `start` radians."""
    return np.concatenate([rotate(triangles, axis, angle) for angle in angles(copies, start)])


def join(*parts: Array) -> Array:
    """The triangles of all parts."""
    return np.concatenate(parts)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
