"""What chairs stand on: a function for each kind of base, from y = 0 down to the floor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.primitives import (
    around,
    beam,
    box,
    curve,
    cylinder,
    ellipsoid,
    join,
    lathe,
    mirrored,
    move,
    rod,
    rounded,
    tube,
)

Array = NDArray[np.float64]


def straight_legs(rng: np.random.Generator, width: float, depth: float, height: float, splay: float = 0.0) -> Array:
    """Four round legs, straight or tapered, perhaps joined by stretchers."""
    thick, end = rng.uniform(0.016, 0.028), rng.uniform(0.5, 1.0)
    return four_legs(rng, width, depth, height, splay, lambda top, foot: rod(top, foot, [thick, end * thick]))


def square_legs(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """Four legs with a square section, with an apron under the seat."""
    thick, end, drop = rng.uniform(0.03, 0.05), rng.uniform(0.6, 1.0), rng.uniform(0.04, 0.08)
    legs = four_legs(rng, width, depth, height, 0.0, lambda top, foot: beam(top, foot, thick, end * thick))
    x, z = width / 2 - 0.04, depth / 2 - 0.04
    front = box([2 * x, drop, 0.015], [0, -drop / 2, z])
    return join(legs, front, front * [1, 1, -1], mirrored(box([0.015, drop, 2 * z], [x, -drop / 2, 0])))


def splayed_legs(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """Four round legs that spread towards the floor."""
    return straight_legs(rng, 0.85 * width, 0.85 * depth, height, splay=rng.uniform(0.1, 0.35))


def four_legs(
    rng: np.random.Generator,
    width: float,
    depth: float,
    height: float,
    splay: float,
    leg: Callable[[Array, Array], Array],
) -> Array:
    """Four copies of a leg(top, foot) near the corners, and stretchers: none, a box or an H."""
    x, z = width / 2 - 0.04, depth / 2 - 0.04
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])  # around the seat
    tops = np.insert(signs * [x, z], 1, 0.0, axis=1)  # (4, 3)
    feet = np.insert(signs * [x, z] * (1 + splay), 1, -height, axis=1)  # (4, 3)
    parts = [leg(top, foot) for top, foot in zip(tops, feet, strict=True)]
    level, thin = rng.uniform(0.45, 0.8), rng.uniform(0.009, 0.014)
    joints = tops + level * (feet - tops)  # (4, 3)
    form = pick(rng, ["none", "box", "H"])
    if form == "box":
        parts += [rod(joints[i], joints[i - 1], thin, sides=6) for i in range(4)]
    elif form == "H":
        sides = [(joints[0], joints[3]), (joints[1], joints[2])]
        parts += [rod(a, b, thin, sides=6) for a, b in sides]
        parts.append(rod((joints[0] + joints[3]) / 2, (joints[1] + joints[2]) / 2, thin, sides=6))
    return join(*parts)


def swivel(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """An office chair's column on a star of four to six feet with casters."""
    feet, reach, caster = int(rng.integers(4, 7)), rng.uniform(0.26, 0.34), rng.uniform(0.022, 0.032)
    hub = 2 * caster + 0.05 - height
    foot = tube(
        curve([[0, hub, 0], [0, hub, reach / 2], [0, 2 * caster - height, reach]], 6), np.linspace(0.024, 0.014, 6)
    )
    wheel = move(cylinder(caster, caster, sides=14, axis="x"), [-caster / 2, caster - height, reach])
    column = move(cylinder(0.028, -hub, sides=16), [0, hub, 0])
    sleeve = move(cylinder(0.042, -0.5 * hub, sides=16, top_radius=0.034), [0, hub - 0.03, 0])
    return join(around(join(foot, wheel), feet), column, sleeve, box([0.2, 0.04, 0.24], [0, -0.02, 0]))


def sled(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """Two bent tubes, each down in front, along the floor and up behind, with bars across."""
    x, z, thin = width / 2 - 0.03, depth / 2 - 0.04, rng.uniform(0.01, 0.016)
    back = -z - rng.uniform(0, 0.08)
    path = rounded([[x, 0, z], [x, -height, z + rng.uniform(0, 0.06)], [x, -height, back], [x, 0, -z]], 0.06)
    bar = rod([-x, -height, back + 0.08], [x, -height, back + 0.08], thin)
    under = rod([-x, -0.01, z], [x, -0.01, z], thin)
    return join(mirrored(tube(path, thin)), bar, under)


def cantilever(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """A bent tube that carries the seat from the front alone."""
    x, z, thin = width / 2 - 0.02, depth / 2, rng.uniform(0.011, 0.018)
    path = rounded([[x, -0.01, -z], [x, -0.01, z - 0.02], [x, -height, z - 0.02], [x, -height, -z]], 0.08)
    return join(mirrored(tube(path, thin)), rod([-x, -height, -z], [x, -height, -z], thin))


def tulip(rng: np.random.Generator, width: float, depth: float, height: float) -> Array:
    """One turned foot, narrow in the middle, or a column on a disc."""
    foot, waist = rng.uniform(0.2, 0.27), rng.uniform(0.022, 0.04)
    if chance(rng, 0.5):
        disc = move(cylinder(foot, 0.02, sides=36), [0, -height, 0])
        return join(disc, move(cylinder(waist, height - 0.02, sides=16), [0, 0.02 - height, 0]))
    control = [
        [foot, -height + 0.012],
        [0.3 * foot, -height],
        [waist * 0.6, -0.6 * height],
        [waist, -0.2 * height],
        [0.14, 0],
    ]
    return join(lathe([[0, -height], [foot, -height], *curve(control, 14)], 28), ellipsoid([0.1, 0.01, 0.1]))


BASES: dict[str, Callable[[np.random.Generator, float, float, float], Array]] = {
    "square legs": square_legs,
    "round legs": straight_legs,
    "splayed": splayed_legs,
    "swivel": swivel,
    "sled": sled,
    "tulip": tulip,
    "cantilever": cantilever,
}
