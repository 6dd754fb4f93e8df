"""Lamps: table, floor, desk and arc lamps, pendants and chandeliers.

The floor (or the ceiling of a pendant) is near y = 0 while a lamp is built.
"""

from __future__ import annotations

import numpy as np

from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.lamp_parts import Array, bulb, foot, harp, shade, stem, tripod, vase
from mfcdm.datasets.shapes.primitives import (
    around,
    box,
    curve,
    cylinder,
    ellipsoid,
    join,
    lathe,
    mirrored,
    move,
    rod,
    rotate,
    tube,
)


def lamp(rng: np.random.Generator) -> Array:
    """Draw the triangles (F, 3, 3) of a lamp."""
    kinds = [table_lamp, table_lamp, floor_lamp, floor_lamp, desk_lamp, desk_lamp, arc_lamp, pendant, chandelier]
    return pick(rng, kinds)(rng)


def table_lamp(rng: np.random.Generator) -> Array:
    """A vase, a column or a ball with a shade of about its own height."""
    height, radius = rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.32)
    drop = rng.uniform(0.2, 0.34)
    base = pick(rng, [vase, vase, stem])(rng, height)
    if chance(rng, 0.3):
        base = join(base, foot(rng, rng.uniform(0.12, 0.18)))
    neck = height + rng.uniform(0.02, 0.06)
    socket = move(cylinder(0.014, neck - height + 0.02, sides=12), [0, height - 0.02, 0])
    top = neck + rng.uniform(0.7, 0.95) * drop
    cover = move(shade(rng, radius, drop), [0, top, 0])
    return join(base, socket, move(bulb(0.035), [0, neck, 0]), cover, harp(neck, top, cover))


def floor_lamp(rng: np.random.Generator) -> Array:
    """A tall pole on a disc or three legs, with a shade, or a bowl that lights the ceiling."""
    height, radius, drop = rng.uniform(1.2, 1.7), rng.uniform(0.18, 0.3), rng.uniform(0.18, 0.36)
    if chance(rng, 0.35):
        base = tripod(rng, height)
    else:
        pole = move(cylinder(rng.uniform(0.01, 0.02), height, sides=12), [0, 0.02, 0])
        base = join(foot(rng, rng.uniform(0.14, 0.2)), pole)
        if chance(rng, 0.3):  # a small round table on the pole
            base = join(base, move(cylinder(rng.uniform(0.15, 0.22), 0.02, sides=32), [0, 0.4 * height, 0]))
    if chance(rng, 0.2):
        bowl = [
            (0.03, 0),
            (0.5 * radius, 0.03),
            (radius, 0.14),
            (radius - 0.01, 0.15),
            (0.5 * radius, 0.045),
            (0, 0.02),
        ]
        return join(base, move(lathe(bowl, 36), [0, height, 0]))
    top = height + 0.85 * drop
    cover = move(shade(rng, radius, drop), [0, top, 0])
    return join(base, move(bulb(0.04), [0, height, 0]), cover, harp(height, top, cover))


def desk_lamp(rng: np.random.Generator) -> Array:
    """Two arms with joints (perhaps of double rods, with springs) and a tilting head, towards +z."""
    lower, upper = rng.uniform(0.3, 0.45), rng.uniform(0.28, 0.45)
    back, forward = np.radians(rng.uniform(-5, 40)), np.radians(rng.uniform(35, 100))
    start = np.array([0, 0.04, 0])
    elbow = start + lower * np.array([0, np.cos(back), -np.sin(back)])
    wrist = elbow + upper * np.array([0, np.cos(forward), np.sin(forward)])
    gap, thin = (rng.uniform(0.012, 0.022), 0.006) if chance(rng, 0.5) else (0.0, rng.uniform(0.008, 0.014))
    parts = [foot(rng, rng.uniform(0.1, 0.15))]
    for a, b in ((start, elbow), (elbow, wrist)):
        arm = move(rod(a, b, thin), [gap, 0, 0])
        parts.append(mirrored(arm) if gap else arm)
        if gap and chance(rng, 0.7):
            parts.append(tube(spring(a + 0.1 * (b - a), a + 0.45 * (b - a)), 0.0025, sides=5))
    hinge = move(cylinder(0.018, 0.06, sides=14, axis="x"), [-0.03, 0, 0])
    parts += [move(hinge, elbow), move(hinge, wrist), move(hinge, start)]
    size, tilt = rng.uniform(0.07, 0.12), np.radians(rng.uniform(-60, 10))
    long = size * rng.uniform(1.3, 2.0)
    # a closed loop: neck, cone, edge and the inside of the cone
    cone = [
        (0, 0.05),
        (0.025, 0.05),
        (0.4 * size, 0),
        (size, -long),
        (0.95 * size, -long),
        (0.35 * size, -0.01),
        (0, 0),
    ]
    head = join(lathe(cone, 28), rotate(move(bulb(0.03), [0, 0.045, 0]), "x", np.pi))
    return join(*parts, move(rotate(head, "x", tilt), wrist))


def spring(start: Array, end: Array, turns: int = 8, radius: float = 0.008) -> Array:
    """A zigzag in the plane x = 0 that stands for a coil between two points of that plane, (2 turns + 1, 3)."""
    s = np.linspace(0, 1, 2 * turns + 1)[:, None]
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([0, -along[2], along[1]])
    return start + s * (end - start) + radius * np.where(np.arange(2 * turns + 1) % 2, 1, -1)[:, None] * across


def arc_lamp(rng: np.random.Generator) -> Array:
    """A heavy foot and a bent pole from which a shade hangs far out, towards +z."""
    height, reach = rng.uniform(1.2, 1.6), rng.uniform(0.55, 0.95)
    path = curve([[0.0, 0, 0], [0, 1.1 * height, -0.1], [0, 1.25 * height, 0.7 * reach], [0, 0.95 * height, reach]], 28)
    base = foot(rng, rng.uniform(0.15, 0.2)) if chance(rng, 0.6) else box([0.3, 0.06, 0.22], [0, 0.03, 0])
    radius, drop = rng.uniform(0.14, 0.24), rng.uniform(0.12, 0.24)
    end = path[-1]
    cover = shade(rng, radius, drop)
    spokes = harp(-0.02, 0.0, cover)
    hanging = join(cover, spokes, rotate(move(bulb(0.04), [0, 0.02, 0]), "x", np.pi))
    return join(base, tube(path, np.linspace(0.018, 0.01, 28)), move(hanging, end))


def pendant(rng: np.random.Generator) -> Array:
    """A ceiling plate, one to four cords and a shade (or a ball) on each."""
    count = pick(rng, [1, 1, 2, 3, 4])
    spacing, parts = rng.uniform(0.3, 0.42), []
    radius, drop = rng.uniform(0.13, 0.3) * (1 if count == 1 else 0.6), rng.uniform(0.15, 0.32)
    cover = shade(rng, radius, drop)  # the same on every cord
    ball, level = chance(rng, 0.25), rng.uniform(0.35, 0.8)
    for i in range(count):
        x = spacing * (i - (count - 1) / 2)
        length = level * (1.0 if chance(rng, 0.5) else rng.uniform(0.7, 1.2))
        body = ellipsoid([radius] * 3, [0, -radius, 0], 28, 15) if ball else join(cover, harp(-0.02, 0.0, cover))
        light = np.zeros((0, 3, 3)) if ball else rotate(bulb(0.035), "x", np.pi)
        socket = move(cylinder(0.02, 0.06, sides=12), [0, -0.03, 0])
        parts += [move(join(body, light, socket), [x, -length, 0]), rod([x, 0, 0], [x, -length, 0], 0.005, sides=6)]
    plate = cylinder(0.08, 0.03, sides=24) if count == 1 else box([spacing * count, 0.03, 0.08], [0, 0.015, 0])
    return join(plate, *parts)


def chandelier(rng: np.random.Generator) -> Array:
    """A stem with three to eight curved arms, each with a cup and a candle or a small shade."""
    arms, reach, drop = int(rng.integers(3, 9)), rng.uniform(0.3, 0.48), rng.uniform(0.35, 0.6)
    sag = rng.uniform(0.08, 0.22)
    control = [[0, 0, 0.02], [0, -1.6 * sag, 0.5 * reach], [0, -sag, reach], [0, 0, reach]]
    path = move(curve(control, 14), [0, -drop, 0])
    end = path[-1]
    cup = move(cylinder(0.02, 0.03, sides=12, top_radius=0.045), end)
    if chance(rng, 0.5):
        light = move(shade(rng, 0.07, 0.09), move(end, [0, 0.15, 0]))
        light = join(light, move(cylinder(0.012, 0.12, sides=10), end))
    else:
        light = join(move(cylinder(0.014, 0.1, sides=10), end), move(bulb(0.02), move(end, [0, 0.1, 0])))
    middle = move(vase(rng, 0.25) * [0.5, 1, 0.5], [0, -drop - 0.15, 0])
    rods = join(cylinder(0.07, 0.03, sides=24), rod([0, 0, 0], [0, -drop + 0.05, 0], 0.01))
    return join(rods, middle, around(join(tube(path, 0.009, sides=8), cup, light), arms))
