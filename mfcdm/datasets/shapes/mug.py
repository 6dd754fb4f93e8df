"""Mugs: straight, tapered, bellied, waisted, round and flared bodies with walls, rims, ribs, facets and handles.

The mug stands on y = 0 and is about 1 high; its handle points towards +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.primitives import angles, curve, ellipsoid, join, lathe, move, rounded, torus, tube

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """The outline of a body of height 1: the radius as a function of the height.

    Args:
        radius: a typical radius.
        taper: the top is wider than the bottom by this fraction.
        bulge: of the middle outwards (inwards if negative), over the radius.
        flare: of the lip outwards, over the radius.
        rounding: the height over which the bottom edge is rounded.
        ribs: how many rings run around the body, and `rib_depth` how deep they are, over the radius.
    """

    radius: float
    taper: float
    bulge: float
    flare: float
    rounding: float
    ribs: int
    rib_depth: float

    def outer(self, y: Array) -> Array:
        """The outer radius at heights y in [0, 1], (S,)."""
        shape = 1 + self.taper * (y - 0.5) + self.bulge * np.sin(np.pi * y) + self.flare * y**10
        shape += self.rib_depth * np.sin(2 * np.pi * self.ribs * (y - 0.15) / 0.7) * ((y > 0.15) & (y < 0.85))
        below = np.clip(1 - y / self.rounding, 0, 1)  # 1 at the bottom, 0 above the rounding
        inset = min(self.rounding, 0.45 * self.radius)  # wide cups are rounder upwards than inwards
        return self.radius * shape - inset * (1 - np.sqrt(1 - below**2))

    def inner(self, y: Array, wall: float) -> Array:
        """The inner radius at heights y, (S,): a wall's thickness within the outline, without the ribs."""
        smooth = Profile(self.radius, self.taper, self.bulge, self.flare, self.rounding, 0, 0.0)
        return smooth.outer(y) - wall


def mug(rng: np.random.Generator) -> Array:
    """Draw the triangles (F, 3, 3) of a mug with its handle at +x."""
    profile = draw_profile(rng)
    wall = rng.uniform(0.03, 0.075)
    sides = pick(rng, [64, 64, 64, 64, 12, 8, 6])  # faceted mugs have few
    parts = [body(rng, profile, wall, sides)]
    shrink = np.cos(np.pi / sides)  # a facet's middle is nearer to the axis than its corners
    parts.append(handle(rng, profile, wall, shrink))
    if chance(rng, 0.15):
        parts.append(saucer(rng, profile))
    elif chance(rng, 0.1):
        parts.append(lid(rng, profile))
    return join(*parts)


def draw_profile(rng: np.random.Generator) -> Profile:
    """Draw one of the families of outlines."""
    family = pick(rng, ["straight", "straight", "tapered", "bellied", "waisted", "cup", "round"])
    radius, taper, bulge, rounding = rng.uniform(0.3, 0.56), 0.0, 0.0, rng.uniform(0.03, 0.15)
    if family == "tapered":
        taper = rng.uniform(0.15, 0.5) * pick(rng, [1, 1, -0.7])
    elif family == "bellied":
        bulge, rounding = rng.uniform(0.12, 0.32), rng.uniform(0.05, 0.2)
    elif family == "waisted":
        bulge = -rng.uniform(0.1, 0.22)
    elif family == "cup":  # wide and low
        radius, taper, rounding = rng.uniform(0.55, 0.75), rng.uniform(0.1, 0.45), rng.uniform(0.25, 0.45)
    elif family == "round":
        radius, bulge, rounding = rng.uniform(0.42, 0.5), rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.3)
    flare = rng.uniform(0.06, 0.18) if chance(rng, 0.3) else 0.0
    ribs = int(rng.integers(3, 9)) if chance(rng, 0.25) else 0
    return Profile(radius, taper, bulge, flare, rounding, ribs, rng.uniform(0.015, 0.03))


def body(rng: np.random.Generator, profile: Profile, wall: float, sides: int) -> Array:
    """One closed surface: underside, outer wall, rim, inner wall and inner floor, perhaps on a foot ring."""
    floor = wall * rng.uniform(1.0, 1.8)
    up = np.concatenate([profile.rounding * (1 - np.cos(np.linspace(0, np.pi / 2, 6)[:-1])), [profile.rounding]])
    up = np.concatenate([up, np.linspace(profile.rounding, 1, 40 if profile.ribs else 18)[1:]])  # (S,)
    outside = np.stack([profile.outer(up), up], axis=1)
    top_outer, top_inner = profile.outer(np.ones(1))[0], profile.inner(np.ones(1), wall)[0]
    half, middle = (top_outer - top_inner) / 2, (top_outer + top_inner) / 2
    a = np.linspace(0, np.pi, 6)[1:-1]
    bead = rng.uniform(1.0, 1.5) if chance(rng, 0.3) else 1.0  # a thicker rim
    rim = np.stack([middle + bead * half * np.cos(a), 1 + bead * half * np.sin(a)], axis=1)
    down = up[::-1]  # the inside is the outside's outline, squeezed between the floor and the rim
    inside = np.stack([profile.inner(down, wall), floor + (1 - floor) * down], axis=1)
    foot: list[tuple[float, float]] = [(0, 0)]
    if chance(rng, 0.4):
        ring, drop = 0.8 * profile.outer(np.zeros(1))[0], rng.uniform(0.025, 0.05)
        foot = [(0, 0), (ring - 0.03, 0), (ring - 0.03, -drop), (ring, -drop), (ring, 0)]
    return lathe(np.concatenate([foot, outside, rim, inside, [(0, floor)]]), sides)


def handle(rng: np.random.Generator, profile: Profile, wall: float, shrink: float) -> Array:
    """A handle whose ends lie inside the wall: ear, D, square, ring or question mark."""
    low, high = rng.uniform(0.14, 0.3), rng.uniform(0.7, 0.88)
    reach = rng.uniform(0.2, 0.44) * (1.1 if profile.radius < 0.45 else 0.9)
    thick, flatten = rng.uniform(0.035, 0.06), rng.uniform(0.8, 1.7)
    x_low, x_high = (profile.inner(np.array([low, high]), 0.0) * shrink) - wall / 2
    out = max(x_low, x_high) + reach + wall / 2
    style = pick(rng, ["ear", "ear", "D", "square", "ring", "question"])
    if style == "ring":
        radius, middle = rng.uniform(0.17, 0.24), rng.uniform(0.45, 0.6)
        at = profile.inner(np.array([middle]), 0.0)[0] * shrink + 0.78 * radius
        a = angles(40)
        # only the arc outside the inner wall: the rest would stand in the coffee
        arc = a[np.cos(a) > -0.78]
        arc = np.sort((arc + np.pi) % (2 * np.pi) - np.pi)
        path = np.stack([at + radius * np.cos(arc), middle + radius * np.sin(arc)], axis=1)
    elif style == "square":
        path = rounded([[x_low, low], [out, low], [out, high], [x_high, high]], rng.uniform(0.05, 0.12))
    elif style == "D":
        s = np.linspace(-np.pi / 2, np.pi / 2, 22)
        power = rng.uniform(0.6, 1.0)
        base = x_low + (x_high - x_low) * (1 + np.sin(s)) / 2
        path = np.stack(
            [base + (out - base) * np.cos(s) ** power, (low + high) / 2 + (high - low) / 2 * np.sin(s)], axis=1
        )
    elif style == "question":
        path = curve(
            [[x_low, low], [x_low + 0.5 * reach, low + 0.1], [out + 0.45 * reach, high + 0.15], [x_high, high]], 22
        )
    else:
        far = x_high + 1.45 * reach
        path = curve(
            [[x_low, low], [out, low - 0.05], [far, 0.5 * (low + high)], [far, high + 0.12], [x_high, high]], 24
        )
    points = np.stack([path[:, 0], path[:, 1], np.zeros(len(path))], axis=1)  # (S, 3)
    return tube(points, thick, sides=14, flatten=flatten)


def saucer(rng: np.random.Generator, profile: Profile) -> Array:
    """A plate under the mug, with a raised edge."""
    edge, thick = profile.radius * rng.uniform(1.6, 2.0), 0.03
    under = np.array([(0, -0.1), (0.5 * edge, -0.1), (0.6 * edge, -0.08), (edge, 0.03)])
    upper = move(under[::-1], [0, thick])
    return lathe(np.concatenate([under, upper]), 48)


def lid(rng: np.random.Generator, profile: Profile) -> Array:
    """A domed lid with a knob, on the rim."""
    radius, rise = profile.outer(np.ones(1))[0], rng.uniform(0.05, 0.14)
    y = 1.04
    dome = lathe([(0, y), (radius, y), (0.97 * radius, y + 0.03), (0.7 * radius, y + 0.7 * rise), (0, y + rise)], 48)
    knob = ellipsoid([0.06, 0.05, 0.06], [0, y + rise + 0.04, 0], sides=16)
    return join(dome, knob, move(torus(0.97 * radius, 0.015, 48, 8), [0, y + 0.02, 0]))
