"""Parts of lamps: shades, bulbs, feet, stems and vases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.choices import pick
from mfcdm.datasets.shapes.primitives import angles, around, box, curve, cylinder, join, lathe, move, rod, torus

Array = NDArray[np.float64]


def shade(rng: np.random.Generator, radius: float, height: float) -> Array:
    """A thin shell, open above and below, from y = 0 down to -height: cone, drum, bell, dome or pleated cone.

    `radius` is that of the wider, lower edge.
    """
    form = pick(rng, ["cone", "cone", "drum", "bell", "dome", "pleated"])
    narrow = radius * (rng.uniform(0.85, 1.0) if form == "drum" else rng.uniform(0.3, 0.65))
    s = np.linspace(0, 1, 12)  # from the top down
    if form == "bell":
        r = narrow + (radius - narrow) * s ** rng.uniform(1.8, 3.0)
    elif form == "dome":
        narrow = 0.2 * radius
        r = narrow + (radius - narrow) * np.sqrt(1 - (1 - s) ** 2)
    else:
        s = np.linspace(0, 1, 2)
        r = narrow + (radius - narrow) * s
    wall = min(0.006, 0.05 * radius)
    outside = np.stack([r, -height * s], axis=1)
    inside = outside[::-1] - [wall, 0]
    sides, ripple = 40, None
    if form == "pleated":
        sides = 72
        ripple = 1 + 0.06 * np.cos(24 * angles(sides))
    return lathe(np.concatenate([outside, inside]), sides, closed=True, ripple=ripple)


def harp(low: float, high: float, cover: Array) -> Array:
    """A wire from y = `low` up to the shade's upper edge at y = `high`, and three spokes to that edge.

    Args:
        low: where the wire begins, on the axis.
        high: the upper edge's height.
        cover: the shade's triangles (F, 3, 3), around the y axis.
    """
    corners = cover.reshape(-1, 3)
    edge = corners[corners[:, 1] > high - 1e-9]  # the corners of the upper edge
    reach = float(np.hypot(edge[:, 0], edge[:, 2]).min())
    spoke = rod([0, high - 0.004, 0], [0, high - 0.004, reach], 0.003, sides=6)
    return join(rod([0, low, 0], [0, high, 0], 0.004, sides=6), around(spoke, 3))


def bulb(radius: float) -> Array:
    """A light bulb that stands on y = 0: a ball on a neck."""
    a = np.linspace(-0.9, np.pi / 2, 9)
    ball = np.stack([radius * np.cos(a), radius * (2 + np.sin(a))], axis=1)
    ball[-1, 0] = 0
    return lathe(np.concatenate([[(0, 0), (0.45 * radius, 0)], ball]), 16)


def foot(rng: np.random.Generator, radius: float) -> Array:
    """A foot on the floor: a disc, a dome, steps or a square plate."""
    form = pick(rng, ["disc", "dome", "steps", "square"])
    if form == "square":
        return box([1.7 * radius, 0.03, 1.7 * radius], [0, 0.015, 0])
    outline = {
        "disc": [(0, 0), (1, 0), (1, 0.025), (0, 0.025)],
        "dome": [(0, 0), (1, 0), (0.95, 0.015), (0.7, 0.035), (0.3, 0.045), (0, 0.048)],
        "steps": [(0, 0), (1, 0), (1, 0.018), (0.75, 0.018), (0.75, 0.034), (0.4, 0.034), (0.4, 0.05), (0, 0.05)],
    }[form]
    return lathe(np.array(outline) * [radius, 1], 36)


def stem(rng: np.random.Generator, height: float) -> Array:
    """A thin column with beads, on a foot."""
    thin = rng.uniform(0.012, 0.022)
    column = cylinder(thin, height, sides=14)
    beads = [move(torus(thin, 0.45 * thin, 14, 6), [0, height * u, 0]) for u in np.sort(rng.uniform(0.15, 0.9, 3))]
    return join(foot(rng, rng.uniform(0.1, 0.16)), column, *beads)


def vase(rng: np.random.Generator, height: float) -> Array:
    """A turned body: urn, bottle, stacked balls, hourglass or faceted column."""
    form, radius = pick(rng, ["urn", "bottle", "balls", "hourglass", "column"]), rng.uniform(0.08, 0.15)
    s = np.linspace(0, 1, 28)
    if form == "balls":
        count = int(rng.integers(2, 5))
        r = radius * (0.25 + 0.65 * np.abs(np.sin(np.pi * count * np.linspace(0, 1, 12 * count + 1))))
        s = np.linspace(0, 1, 12 * count + 1)
    elif form == "hourglass":
        r = radius * (0.4 + 0.6 * np.abs(2 * s - 1) ** rng.uniform(1.2, 2.2))
    elif form == "column":
        r = np.full_like(s, 0.6 * radius)
    else:
        belly = [0.5, 0.4, 1.9, 0.4, 0.3] if form == "urn" else [0.9, 1.2, 0.9, 0.1, 0.2]
        profile = curve(np.stack([radius * np.array(belly), np.linspace(0, 1, 5)], axis=1), 28)
        r, s = profile.T
    sides = pick(rng, [32, 32, 32, 8, 6]) if form != "balls" else 28
    outline = np.stack([r, height * s], axis=1)
    return lathe(np.concatenate([[(0, 0)], outline, [(0, height)]]), sides)


def tripod(rng: np.random.Generator, height: float) -> Array:
    """Three legs that meet in a hub below the light, perhaps with a ring between them."""
    reach, thin, hub = rng.uniform(0.22, 0.36), rng.uniform(0.01, 0.018), rng.uniform(0.55, 0.95) * height
    legs = around(rod([0, hub, 0.02], [0, 0, reach], thin), 3)
    knob = move(cylinder(0.04, 0.06, sides=16), [0, hub - 0.03, 0])
    pole = move(cylinder(0.012, height - hub + 0.02, sides=10), [0, hub - 0.02, 0])
    level = rng.uniform(0.3, 0.5)
    return join(legs, knob, pole, move(torus((1 - level) * reach, 0.006, 32, 6), [0, level * hub, 0]))
