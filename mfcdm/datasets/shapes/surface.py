"""A surface made of triangles: exact area, exact uniform sampling and exact distance."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

# Points handled at once by `Surface.distance`: bounds its memory to some tens of megabytes.
_CHUNK = 4096


class Surface:
    r"""The union of F triangles, S = T_1 u ... u T_F: the triangles are the shape itself, not an approximation of it.

    Args:
        triangles: the corners of each triangle, (F, 3, 3). Triangles of area zero are allowed; they are segments
            or points of the surface, which sampling never meets.

    Raises:
        ValueError: if `triangles` is not a finite (F, 3, 3) array of positive total area.
    """

    def __init__(self, triangles: ArrayLike) -> None:
        self.triangles: Array = np.array(triangles, dtype=np.float64)  # (F, 3, 3)
        if self.triangles.ndim != 3 or self.triangles.shape[1:] != (3, 3) or len(self.triangles) == 0:
            raise ValueError(f"triangles has shape {self.triangles.shape}, but (F, 3, 3) with F >= 1 is expected")
        if not np.isfinite(self.triangles).all():
            raise ValueError("triangles contains NaN or infinity, but every corner must be finite")
        self.face_areas = triangle_areas(self.triangles)  # (F,)
        if not self.area > 0:
            raise ValueError(f"triangles have a total area of {self.area}, but it must be positive")

    @property
    def area(self) -> float:
        """The sum of the triangles' areas."""
        return float(self.face_areas.sum())

    @property
    def bounds(self) -> Array:
        """The lowest and the highest corner of the bounding box, (2, 3)."""
        return np.stack([self.triangles.min(axis=(0, 1)), self.triangles.max(axis=(0, 1))])

    def normalized(self) -> Surface:
        """The same shape, centred on its bounding box and scaled so that the box's longest side is 1."""
        low, high = self.bounds
        return Surface((self.triangles - (low + high) / 2) / (high - low).max())

    def sample(self, num_points: int, rng: np.random.Generator) -> Array:
        r"""Draw independent points, uniform by area.

        Triangle f is drawn with probability area_f / area; in it, with r and u uniform on [0, 1],
        x = a + sqrt(r) ((1 - u) (b - a) + u (c - a)), because the part of a triangle that lies within a fraction s
        of its way from corner a has the area s^2. A point consumes three numbers of the stream, so the first n points
        of a longer draw are the points of a draw of n.

        Args:
            num_points: how many points, at least 1.
            rng: the source of randomness; it moves on.

        Returns:
            Points of the surface, (num_points, 3).

        Raises:
            ValueError: if `num_points` is less than 1.
        """
        if num_points < 1:
            raise ValueError(f"num_points is {num_points}, but at least 1 point must be drawn")
        pick, r, u = rng.random((num_points, 3)).T  # (n,) each
        cumulative = np.cumsum(self.face_areas)  # (F,)
        # side="right" skips triangles of area zero; rounding may carry pick * area to the very end, hence the minimum
        faces = np.searchsorted(cumulative, pick * cumulative[-1], side="right")  # (n,)
        last = np.flatnonzero(self.face_areas)[-1]
        a, b, c = self.triangles[np.minimum(faces, last)].transpose(1, 0, 2)  # (n, 3) each
        root, u = np.sqrt(r)[:, None], u[:, None]  # (n, 1)
        return a + root * ((1 - u) * (b - a) + u * (c - a))

    def distance(self, points: ArrayLike) -> Array:
        r"""Compute the exact distance of each point to the surface, d(p) = min_f min_{y in T_f} |p - y|.

        The triangles are cut into small pieces of the same union, in a binary tree of bounding boxes. The piece with
        the nearest centroid bounds d(p) from above, and a box bounds its pieces from below: boxes farther than the
        upper bound are left out, which cannot change the minimum.

        Args:
            points: (n, 3), in the units of the surface.

        Returns:
            Unsigned distances, (n,), float64.

        Raises:
            ValueError: if `points` is not a finite (n, 3) array.
        """
        points = np.asarray(points, dtype=np.float64)  # (n, 3)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points has shape {points.shape}, but (n, 3) is expected")
        if not np.isfinite(points).all():
            raise ValueError("points contains NaN or infinity, but every coordinate must be finite")
        chunks = [self._pruned_distance(points[i : i + _CHUNK]) for i in range(0, len(points), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    @cached_property
    def _tree(self) -> tuple[Array, cKDTree, list[tuple[Array, Array]]]:
        """The pieces (P, 3, 3), a tree of their centroids, and boxes around 1, 2, 4, ... P groups of pieces.

        Group g of a level is groups 2 g and 2 g + 1 of the next; each level is the two corners of its boxes.
        """
        low, high = self.bounds
        pieces = split_long_edges(self.triangles, longest=(high - low).max() / 16)
        depth = int(np.ceil(np.log2(len(pieces))))
        pieces = np.pad(
            pieces, ((0, 2**depth - len(pieces)), (0, 0), (0, 0)), mode="edge"
        )  # a repeated piece is harmless
        for level in range(depth):  # halve each group at its median along its longest side
            centroids = pieces.mean(axis=1).reshape(2**level, -1, 3)  # (groups, size, 3)
            axis = np.ptp(centroids, axis=1).argmax(axis=1)[:, None, None]  # (groups, 1, 1)
            order = np.take_along_axis(centroids, axis, axis=2)[..., 0].argsort(axis=1)  # (groups, size)
            grouped = pieces.reshape(2**level, -1, 3, 3)
            pieces = np.take_along_axis(grouped, order[..., None, None], axis=1).reshape(-1, 3, 3)
        boxes = [(pieces.min(axis=1), pieces.max(axis=1))]
        for _ in range(depth):
            low, high = boxes[0]
            boxes.insert(0, (np.minimum(low[::2], low[1::2]), np.maximum(high[::2], high[1::2])))
        return pieces, cKDTree(pieces.mean(axis=1)), boxes

    def _pruned_distance(self, points: Array) -> Array:
        """The distance of (n, 3) points, n >= 1, refusing every box that is farther than a piece already seen."""
        pieces, centroids, boxes = self._tree
        nearest = centroids.query(points)[1]  # (n,)
        distances = point_triangle_distance(points, pieces[nearest])  # (n,): an upper bound, nearly always tight
        row, group = np.arange(len(points)), np.zeros(len(points), dtype=np.int64)  # the (point, group) pairs left
        for level, (low, high) in enumerate(boxes):
            if level > 0:
                row, group = np.repeat(row, 2), np.stack([2 * group, 2 * group + 1], axis=1).ravel()
            outside = np.maximum(low[group] - points[row], points[row] - high[group])  # (pairs, 3)
            outside = np.maximum(outside, 0)
            # strict: a box as far as the bound has nothing nearer to offer
            left = np.flatnonzero(_dot(outside, outside) < distances[row] ** 2)
            row, group = row[left], group[left]
        np.minimum.at(distances, row, point_triangle_distance(points[row], pieces[group]))
        return distances


def triangle_areas(triangles: Array) -> Array:
    """Compute half the norm of the cross product of two edges.

    Args:
        triangles: (F, 3, 3).

    Returns:
        Areas, (F,).
    """
    u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]  # (F, 3) each
    return np.linalg.norm(np.cross(u, v), axis=-1) / 2


def split_long_edges(triangles: Array, longest: float) -> Array:
    """Cut triangles at the midpoint of their longest edge until no edge is longer than a bound.

    Args:
        triangles: (F, 3, 3).
        longest: the bound, > 0, in the units of the triangles.

    Returns:
        Triangles of the same union, (P, 3, 3) with P >= F.
    """
    finished = []
    while len(triangles):
        lengths = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=-1)  # (F, 3): edge k starts at k
        too_long = lengths.max(axis=1) > longest  # (F,)
        finished.append(triangles[~too_long])
        first = lengths[too_long].argmax(axis=1)  # (L,): where the longest edge starts
        order = (first[:, None] + np.arange(3)) % 3  # (L, 3)
        a, b, c = np.take_along_axis(triangles[too_long], order[..., None], axis=1).transpose(1, 0, 2)  # (L, 3) each
        middle = (a + b) / 2
        triangles = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
    return np.concatenate(finished)


def point_triangle_distance(points: Array, triangles: Array) -> Array:
    """Compute the distance of each point to its own triangle.

    The nearest point is the foot of the perpendicular where that foot is inside the triangle, else it lies on an edge.

    Args:
        points: (P, 3).
        triangles: (P, 3, 3), triangle p for point p. Degenerate ones count as their edges.

    Returns:
        Distances, (P,).
    """
    edges = np.roll(triangles, -1, axis=1) - triangles  # (P, 3, 3): edge k starts at corner k
    offsets = points[:, None] - triangles  # (P, 3, 3)
    squared_length = np.maximum(_dot(edges, edges), np.finfo(np.float64).tiny)  # (P, 3)
    along = np.clip(_dot(offsets, edges) / squared_length, 0, 1)  # (P, 3)
    to_edges = offsets - along[..., None] * edges  # (P, 3, 3)
    to_boundary = np.sqrt(_dot(to_edges, to_edges).min(axis=1))  # (P,)

    # The foot a + s u + t v, where v is split into its parts along and across u: that loses fewer digits in needles
    # than the normal equations. Brought back into the triangle it always names a point of it, so that rounding cannot
    # report less than the true distance.
    u, v, w = edges[:, 0], -edges[:, 2], offsets[:, 0]  # (P, 3) each
    uu = squared_length[:, 0]  # (P,)
    slope = _dot(u, v) / uu  # (P,)
    across = v - slope[:, None] * u  # (P, 3)
    t = np.clip(_dot(w, across) / np.maximum(_dot(across, across), np.finfo(np.float64).tiny), 0, 1)  # (P,)
    s = np.clip(_dot(w, u) / uu - t * slope, 0, 1 - t)  # (P,)
    to_foot = w - s[:, None] * u - t[:, None] * v  # (P, 3)
    return np.minimum(to_boundary, np.sqrt(_dot(to_foot, to_foot)))


def _dot(x: Array, y: Array) -> Array:
    return np.einsum("...i,...i->...", x, y)
