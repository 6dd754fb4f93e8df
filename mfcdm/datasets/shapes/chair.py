"""Chairs: wooden, bent-tube, swivel and tulip chairs, bar chairs and upholstered armchairs.

The seat's top is y = 0 while a chair is built; the back is at -z, so that the chair faces +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfcdm.datasets.shapes.chair_base import BASES, Array
from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.primitives import (
    box,
    cushion,
    join,
    loft,
    mirrored,
    move,
    prism,
    rod,
    rotate,
    rounded,
    superellipse,
    tube,
)


@dataclass(frozen=True)
class Back:
    """The measures of a back, which stands on y = 0 in the plane z = 0 until it leans.

    Args:
        width: at the bottom, along x.
        top_width: at the top.
        height: along y.
        curve: how far the sides come forward, along z.
        rail: the thickness of posts and rails.
    """

    width: float
    top_width: float
    height: float
    curve: float
    rail: float

    def at(self, u: float, y: float) -> Array:
        """The point at the height y and the fraction u in [-1, 1] of the width there, (3,)."""
        width = self.width + (self.top_width - self.width) * y / self.height
        return np.array([u * width / 2, y, self.curve * u * u])

    def panel(self, low: float, high: float, thickness: float, reach: float = 1.0) -> Array:
        """A curved board between two heights, over the fraction `reach` of the width."""
        rings = []
        for u in np.linspace(-reach, reach, 9):
            bottom, top, half = self.at(u, low), self.at(u, high), np.array([0, 0, thickness / 2])
            rings.append([bottom - half, top - half, top + half, bottom + half])
        return loft(rings)

    def posts(self) -> Array:
        """The two upright posts at the sides."""
        return join(*(rod(self.at(u, -0.02), self.at(u, self.height), 0.55 * self.rail) for u in (-0.96, 0.96)))


def chair(rng: np.random.Generator) -> Array:
    """Draw the triangles (F, 3, 3) of a chair that faces +z."""
    if chance(rng, 0.12):
        return armchair(rng)
    tall = chance(rng, 0.12)  # a bar chair
    width, depth = rng.uniform(0.42, 0.56) * (0.85 if tall else 1), rng.uniform(0.4, 0.54) * (0.85 if tall else 1)
    leg = rng.uniform(0.66, 0.78) if tall else rng.uniform(0.36, 0.5)
    thickness = rng.uniform(0.025, 0.06)
    base = pick(rng, [*BASES, "square legs", "splayed"])  # the most common ones twice
    parts = [seat(rng, width, depth, thickness), move(BASES[base](rng, width, depth, leg), [0, -thickness, 0])]
    height = rng.uniform(0.2, 0.34) if tall else rng.uniform(0.36, 0.62)
    measures = Back(width, width * rng.uniform(0.78, 1.08), height, rng.uniform(0, 0.09), rng.uniform(0.018, 0.036))
    lean = np.radians(rng.uniform(2, 16))
    hinge = [0, 0, -depth / 2 + measures.rail]
    parts.append(move(rotate(back(rng, measures), "x", -lean), hinge))
    if chance(rng, 0.35) and not tall:
        parts.append(arms(rng, width, depth, np.tan(lean)))
    return join(*parts)


def seat(rng: np.random.Generator, width: float, depth: float, thickness: float) -> Array:
    """A board or a cushion with the top at y = 0, from almost rectangular to round, perhaps with a pad on top."""
    outline = superellipse(width / 2, depth / 2, pick(rng, [2.6, 4.0, 8.0, 12.0]), sides=32)
    outline = outline * (1 + rng.uniform(0, 0.12) * outline[:, 1:] / depth * [1, 0])  # wider in front
    board = move(prism(outline, thickness), [0, -thickness, 0])
    if chance(rng, 0.4):
        board = join(board, cushion(outline * 0.95, rng.uniform(0.03, 0.07), 0.03))
    return board


def back(rng: np.random.Generator, measures: Back) -> Array:
    """A back: solid, ladder, spindles, bars, bow or framed panel."""
    form = pick(rng, ["solid", "ladder", "ladder", "spindles", "bars", "bow", "framed"])
    height, rail = measures.height, measures.rail
    crest = rng.uniform(0.12, 0.22) * height
    if form == "solid":
        gap = pick(rng, [-0.01, -0.01, 0.3 * height])  # a low gap is bridged by two stays
        stays = join(*(rod(measures.at(u, -0.02), measures.at(u, height / 2), 0.5 * rail) for u in (-0.5, 0.5)))
        return join(measures.panel(gap, height, rng.uniform(0.018, 0.06)), *([stays] if gap > 0 else []))
    if form == "ladder":
        count = int(rng.integers(2, 7))
        steps = np.linspace(0.25 * height, height, count + 1)
        slat = rng.uniform(0.35, 0.75) * (steps[1] - steps[0])
        slats = [measures.panel(top - slat, top, 0.5 * rail) for top in steps[1:]]
        return join(measures.posts(), *slats)
    if form == "bow":
        return bow(rng, measures)
    if form == "framed":
        low = rng.uniform(0.15, 0.3) * height
        rails = [measures.panel(low, low + crest / 2, rail), measures.panel(height - crest / 2, height, rail)]
        inner = measures.panel(low + 0.4 * crest, height - 0.4 * crest, 0.3 * rail, reach=rng.uniform(0.3, 0.75))
        return join(measures.posts(), *rails, inner)
    count = int(rng.integers(4, 10))
    ends = [(measures.at(u, -0.01), measures.at(u, height - crest / 2)) for u in np.linspace(-0.85, 0.85, count)]
    if form == "spindles":
        filling = [rod(low, high, [0.35 * rail, 0.25 * rail], sides=6) for low, high in ends]
    else:
        wide = 0.5 * measures.width / count
        filling = [tube([low, high], [wide, wide], sides=4, flatten=0.3) for low, high in ends]
    return join(measures.posts(), measures.panel(height - crest, height, rail), *filling)


def bow(rng: np.random.Generator, measures: Back) -> Array:
    """A Windsor back: a bent bow with spindles between the seat and the bow."""
    power = rng.uniform(2.0, 3.5)
    a = np.linspace(0, np.pi, 25)
    u = np.sign(np.cos(a)) * np.abs(np.cos(a)) ** (2 / power)
    y = measures.height * np.sin(a) ** (2 / power)
    hoop = tube([measures.at(ui, yi) for ui, yi in zip(u, y, strict=True)], 0.45 * measures.rail, sides=8)
    spindles = []
    for place in np.linspace(-0.8, 0.8, int(rng.integers(5, 10))):
        top = measures.height * (1 - np.abs(place) ** power) ** (1 / power)
        spindles.append(rod(measures.at(0.9 * place, -0.01), measures.at(place, top), 0.22 * measures.rail, sides=6))
    return join(hoop, *spindles)


def arms(rng: np.random.Generator, width: float, depth: float, slope: float) -> Array:
    """Two arms: flat boards on posts, or bent tubes."""
    height, out = rng.uniform(0.17, 0.26), width / 2 - 0.005
    rear, front = -depth / 2 - slope * height, depth * rng.uniform(0.1, 0.38)
    if chance(rng, 0.5):
        board = move(box([rng.uniform(0.04, 0.07), 0.022, front - rear]), [out, height, (front + rear) / 2])
        post = rod([out, -0.01, front - 0.05], [out, height, front - 0.05], rng.uniform(0.012, 0.02))
        return mirrored(join(board, post))
    path = rounded([[out, height, rear], [out, height, front], [out, -0.01, front - rng.uniform(0, 0.06)]], 0.07)
    return mirrored(tube(path, rng.uniform(0.011, 0.02), sides=8))


def armchair(rng: np.random.Generator) -> Array:
    """An upholstered chair: thick arms down to short legs, a seat cushion and a thick back."""
    width, depth, low = rng.uniform(0.45, 0.62), rng.uniform(0.5, 0.62), rng.uniform(0.2, 0.32)
    arm, arm_height = rng.uniform(0.09, 0.16), rng.uniform(0.16, 0.28)
    high, thick = rng.uniform(0.4, 0.65), rng.uniform(0.1, 0.18)
    pad = cushion(superellipse(width / 2, depth / 2, 8.0, 32), rng.uniform(0.1, 0.16), 0.03)
    floor = -low + 0.08
    side = superellipse(arm / 2, depth / 2 + 0.03, rng.uniform(3, 8), 32)
    side = move(cushion(side, arm_height - floor, 0.02), [width / 2 + arm / 2, floor, 0])
    rest = superellipse(width / 2 + arm * pick(rng, [0.0, 1.0]), thick / 2, 6.0, 32)
    rest = rotate(cushion(rest, high - floor, 0.03), "x", -np.radians(rng.uniform(2, 12)))
    body = box([width, -floor, depth], [0, floor / 2, 0])
    foot = rod([width / 2, floor, depth / 2 - 0.05], [width / 2 + 0.02, -low, depth / 2 - 0.03], [0.025, 0.015])
    feet = mirrored(join(foot, foot * [1, 1, -1]))
    return join(pad, mirrored(side), move(rest, [0, floor, -depth / 2 - thick / 2]), body, feet)
