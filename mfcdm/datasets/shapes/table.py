"""Tables: dining, coffee, console and round tables, trestles and desks with drawers.

The floor is y = 0; the longer side lies along x, and drawers open towards +z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.primitives import (
    around,
    beam,
    box,
    curve,
    cushion,
    cylinder,
    ellipsoid,
    join,
    lathe,
    mirrored,
    move,
    prism,
    rod,
    superellipse,
    tube,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """The measures of a table: half sides of the top along x and z, the height under the top, the top's form.

    `inset` is how far the legs stand from the ends of the half sides; a round top needs more.
    """

    x: float
    z: float
    height: float
    form: str  # "rectangle", "rounded" or "round"
    inset: float

    @property
    def corner(self) -> tuple[float, float]:
        """Where the leg at +x, +z stands: (x, z)."""
        reach = 0.68 if self.form == "round" else 1.0
        return reach * self.x - self.inset, reach * self.z - self.inset


def table(rng: np.random.Generator) -> Array:
    """Draw the triangles (F, 3, 3) of a table."""
    form = pick(rng, ["rectangle", "rectangle", "rounded", "round", "round"])
    height = pick(rng, [(0.34, 0.5), (0.6, 0.8), (0.6, 0.8), (0.85, 1.05)])  # coffee, dining, high
    x = rng.uniform(0.4, 0.75) * (0.7 if height[0] > 0.8 else 1)
    z = x * (rng.uniform(0.35, 0.75) if form != "round" or chance(rng, 0.35) else 1.0)
    plan = Plan(x, z, rng.uniform(*height), form, rng.uniform(0.05, 0.09))
    supports: list[Callable[[np.random.Generator, Plan], Array]]
    if form == "round":
        supports = [pedestal, pedestal, legs, crossed_legs]
    else:
        supports = [legs, legs, legs, trestle, slabs, desk, hairpins, double_pedestal]
    return join(top(rng, plan), pick(rng, supports)(rng, plan))


def top(rng: np.random.Generator, plan: Plan) -> Array:
    """The board, with straight or cut edges, above y = height."""
    thick = rng.uniform(0.02, 0.055)
    if plan.form == "rectangle":
        outline = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [plan.x, plan.z]
    else:
        exponent = 2.0 if plan.form == "round" else rng.uniform(3.5, 8)
        outline = superellipse(plan.x, plan.z, exponent, sides=64)
    board = cushion(outline, thick, rng.uniform(0.01, 0.03)) if chance(rng, 0.4) else prism(outline, thick)
    return move(board, [0, plan.height, 0])


def legs(rng: np.random.Generator, plan: Plan) -> Array:
    """Four legs: square, tapered, round, turned or splayed, with an apron, a drawer, a shelf or stretchers."""
    (x, z), height = plan.corner, plan.height
    style, thick = pick(rng, ["square", "square", "round", "turned", "splayed"]), rng.uniform(0.018, 0.04)
    foot = [x * 1.12, 0, z * 1.12] if style == "splayed" else [x, 0, z]
    if style == "square":
        leg = beam([x, height, z], foot, 2 * thick, 2 * thick * rng.uniform(0.45, 1.0))
    elif style == "turned":
        leg = move(turned(rng, 0.9 * thick, height), [x, 0, z])
    else:
        leg = rod([x, height, z], foot, [thick, thick * rng.uniform(0.4, 1.0)])
    parts = [mirrored(join(leg, leg * [1, 1, -1]))]
    drop = rng.uniform(0.05, 0.12)
    if chance(rng, 0.6) or style == "turned":
        parts.append(apron(plan, drop))
        if chance(rng, 0.5):
            parts.append(
                drawers(rng, 1.6 * x, drop * 0.8, [0, height - drop * 0.5, z], columns=int(rng.integers(1, 4)))
            )
    if style != "splayed":
        extra, level = pick(rng, ["none", "none", "shelf", "slats", "H"]), rng.uniform(0.12, 0.35) * height
        if extra == "shelf":
            parts.append(box([2 * x, 0.02, 2 * z], [0, level, 0]))
        elif extra == "slats":
            rows = np.linspace(-z, z, int(rng.integers(5, 10)))
            parts += [box([2 * x, 0.014, 0.9 * z / len(rows)], [0, level, row]) for row in rows]
        elif extra == "H":
            parts.append(mirrored(rod([x, level, -z], [x, level, z], 0.5 * thick)))
            parts.append(rod([-x, level, 0], [x, level, 0], 0.5 * thick))
    return join(*parts)


def apron(plan: Plan, drop: float) -> Array:
    """Four boards under the top, between the legs."""
    (x, z), y = plan.corner, plan.height - drop / 2
    front = box([2 * x, drop, 0.016], [0, y, z])
    return join(front, front * [1, 1, -1], mirrored(box([0.016, drop, 2 * z], [x, y, 0])))


def drawers(
    rng: np.random.Generator, width: float, height: float, centre: list[float], columns: int = 1, rows: int = 1
) -> Array:
    """Drawer fronts with knobs, in a grid that fills `width` by `height` around `centre` (3,), facing +z."""
    parts, knob = [], rng.uniform(0.009, 0.016)
    for i in range(columns):
        for j in range(rows):
            x, y = ((i + 0.5) / columns - 0.5) * width, ((j + 0.5) / rows - 0.5) * height
            front = box([0.92 * width / columns, 0.85 * height / rows, 0.016], [x, y, 0.014])
            parts.append(join(front, ellipsoid([knob] * 3, [x, y, 0.022 + 0.7 * knob], sides=10, rings=7)))
    return move(join(*parts), centre)


def turned(rng: np.random.Generator, radius: float, height: float) -> Array:
    """A leg from the lathe: beads and hollows, with a square block on top."""
    s = np.linspace(0, 0.84, 26)
    beads = rng.uniform(0.12, 0.4) * np.sin(2 * np.pi * s * rng.integers(2, 6) + rng.uniform(0, 6))
    profile = radius * (0.75 + 0.35 * s + beads * np.sin(np.pi * s / 0.84))
    shaft = lathe([(0, 0), *np.stack([profile, s * height], axis=1)], 16)
    return join(shaft, box([2.2 * radius, 0.16 * height, 2.2 * radius], [0, 0.92 * height, 0]))


def pedestal(rng: np.random.Generator, plan: Plan) -> Array:
    """One column, plain, turned or tulip-shaped, on a disc or on three to five feet."""
    reach, height, column = 0.6 * np.sqrt(plan.x * plan.z), plan.height, rng.uniform(0.03, 0.06)
    style = pick(rng, ["disc", "feet", "feet", "tulip"])
    if style == "tulip":
        control = [
            [reach, 0.015],
            [0.25 * reach, 0.0],
            [0.5 * column, 0.6 * height],
            [column, 0.9 * height],
            [0.2, height],
        ]
        return lathe([(0, 0), (reach, 0), *curve(control, 20)], 36)
    shaft = turned(rng, column, height) if chance(rng, 0.5) else cylinder(column, height, sides=20)
    if style == "disc":
        steps = [(0, 0), (reach, 0), (reach, 0.02), (0.4 * reach, 0.045), (0.4 * reach, 0.06), (0, 0.06)]
        return join(lathe(steps, 40), shaft)
    count, high = int(rng.integers(3, 6)), rng.uniform(0.2, 0.45) * height
    path = curve([[0, high, 0], [0, high, 0.6 * reach], [0, 0.02, 0.5 * reach], [0, 0.02, reach]], 10)
    return join(shaft, around(tube(path, np.linspace(0.8 * column, 0.5 * column, 10), flatten=0.6), count))


def double_pedestal(rng: np.random.Generator, plan: Plan) -> Array:
    """Two turned columns, each on a beam across, joined by a stretcher."""
    x, z, height = 0.6 * plan.x, 0.75 * plan.z, plan.height
    column = join(
        move(turned(rng, rng.uniform(0.04, 0.06), height), [x, 0, 0]), box([0.08, 0.05, 2 * z], [x, 0.025, 0])
    )
    return join(mirrored(column), box([2 * x, 0.06, 0.03], [0, 0.3 * height, 0]))


def trestle(rng: np.random.Generator, plan: Plan) -> Array:
    """Two frames, each an A, an X or a U of beams, joined by a beam along x."""
    x, z, height, thick = plan.x * rng.uniform(0.6, 0.85), 0.85 * plan.z, plan.height, rng.uniform(0.03, 0.05)
    form = pick(rng, ["A", "X", "U"])
    ends = {"A": (0.15, 1.0), "X": (-0.9, 0.9), "U": (0.95, 0.95)}[form]
    arms = [beam([x, height, sign * ends[0] * z], [x, 0, sign * ends[1] * z], thick) for sign in (-1, 1)]
    if form == "U":
        arms.append(box([thick, thick, 1.9 * z], [x, thick / 2, 0]))
    level = {"A": rng.uniform(0.25, 0.5), "X": 0.5, "U": 0.04}[form] * height
    cross = [] if form != "A" else [mirrored(box([0.6 * thick, thick, 1.3 * z], [x, level, 0]))]
    return join(mirrored(join(*arms)), box([2 * x, thick, 0.6 * thick], [0, level, 0]), *cross)


def slabs(rng: np.random.Generator, plan: Plan) -> Array:
    """Two boards at the ends, perhaps with a shelf or a back between them."""
    x, z, height, thick = (
        plan.x - plan.inset * pick(rng, [0.3, 1.5]),
        0.9 * plan.z,
        plan.height,
        rng.uniform(0.025, 0.05),
    )
    parts = [mirrored(box([thick, height, 2 * z], [x, height / 2, 0]))]
    if chance(rng, 0.5):
        parts.append(box([2 * x, 0.025, 2 * z], [0, rng.uniform(0.2, 0.6) * height, 0]))
    if chance(rng, 0.5):
        drop = rng.uniform(0.2, 0.6) * height
        parts.append(box([2 * x, drop, 0.02], [0, height - drop / 2, -0.8 * z]))
    return join(*parts)


def desk(rng: np.random.Generator, plan: Plan) -> Array:
    """A writing desk: a block of drawers on one or both sides, else legs."""
    x, z, height, width = plan.x - 0.02, 0.92 * plan.z, plan.height, rng.uniform(0.22, 0.34) * plan.x * 2
    bottom = rng.uniform(0.03, 0.3) * height
    tall, at = height - bottom, np.array([x - width / 2, 0, 0])
    block = move(box([width, tall, 2 * z], [0, bottom + tall / 2, 0]), at)
    fronts = drawers(rng, width, tall, [at[0], bottom + tall / 2, z], rows=int(rng.integers(2, 5)))
    leg = beam([0, height, 0], [0, 0, 0], 0.04)
    posts = [move(leg, [side * (x - 0.03), 0, end * (z - 0.03)]) for side in (1, -1) for end in (1, -1)]
    parts = [block, fronts, *posts]
    if chance(rng, 0.4):
        parts += [block * [-1, 1, 1], fronts * [-1, 1, 1]]
    if chance(rng, 0.6):
        parts.append(box([2 * x, 0.35 * height, 0.015], [0, 0.8 * height, -0.9 * z]))
    return join(*parts)


def hairpins(rng: np.random.Generator, plan: Plan) -> Array:
    """Four thin rods bent like hairpins."""
    (x, z), height, spread = plan.corner, plan.height, rng.uniform(0.05, 0.09)
    foot, thin = [x + 0.03, 0.008, z + 0.02], rng.uniform(0.006, 0.01)
    tops = ([x, height, z - spread], [x - spread, height, z])
    leg = join(*(rod(start, foot, thin, sides=6) for start in tops))
    return mirrored(join(leg, leg * [1, 1, -1]))


def crossed_legs(rng: np.random.Generator, plan: Plan) -> Array:
    """Three to six slanted legs that cross or spread around the middle."""
    reach, height, twist = 0.7 * plan.z, plan.height, rng.uniform(0.5, 2.4)
    top_end = [0.8 * reach * np.sin(twist), height, 0.8 * reach * np.cos(twist)]
    return around(rod([0, 0, reach], top_end, rng.uniform(0.014, 0.024)), int(rng.integers(3, 7)))
