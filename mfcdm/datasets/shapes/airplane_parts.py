"""Parts of airplanes: lifting surfaces, fuselages, engines, propellers and landing gears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.primitives import angles, around, cylinder, join, lathe, loft, mirrored, move, rod, rotate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Wing:
    """A tapered, swept wing: the half that grows from its root towards +x.

    Args:
        root: the leading edge at u = 0, (3,).
        span: from the root (u = 0) to the tip (u = 1), along x.
        chord: at the root, along z.
        taper: the tip's chord over the root's.
        sweep: the leading edge's angle backwards, in radians.
        dihedral: the angle upwards, in radians.
        thickness: of the section, over its chord.
    """

    root: Array
    span: float
    chord: float
    taper: float
    sweep: float
    dihedral: float = 0.0
    thickness: float = 0.1

    def leading(self, u: float) -> Array:
        """The point of the leading edge at the fraction u of the span, (3,)."""
        return self.root + u * self.span * np.array([1, np.tan(self.dihedral), -np.tan(self.sweep)])

    def chord_at(self, u: float) -> float:
        """The chord at the fraction u of the span."""
        return self.chord * (1 + u * (self.taper - 1))

    def triangles(self, start: float = 0.0, winglet: float = 0.0) -> Array:
        """Loft the wing from x = `start`, with a tip that bends upwards by `winglet`."""
        stations = [start / self.span, 0.5, 1.0]
        leading = [self.leading(u) for u in stations]
        chords = [self.chord_at(u) for u in stations]
        across = [np.array([-np.sin(self.dihedral), np.cos(self.dihedral), 0])] * 3
        if winglet:
            leading.append(leading[-1] + [0.35 * winglet, winglet, -0.9 * winglet])
            chords.append(0.55 * chords[-1])
            across[-1], tip = np.array([-0.5, 0.85, 0]), np.array([-0.94, 0.33, 0])
            across.append(tip)
        rings = [
            point + chord * (np.outer(_SECTION[:, 0], [0, 0, -1]) + self.thickness * np.outer(_SECTION[:, 1], up))
            for point, chord, up in zip(leading, chords, across, strict=True)
        ]
        return loft(rings)

    def upright(self) -> Array:
        """The same wing as a fin: it grows from the root upwards."""
        return move(rotate(move(self.triangles(), -self.root), "z", np.pi / 2), self.root)

    def upright_leading(self, u: float) -> Array:
        """The point of the fin's leading edge at the fraction u of its height, (3,)."""
        return self.root + u * self.span * np.array([0, 1, -np.tan(self.sweep)])


def _section(num_points: int = 7) -> Array:
    """The outline of a symmetrical wing section of chord 1 and thickness 1: (position, height), (K, 2)."""
    x = (1 - np.cos(np.linspace(0, np.pi, num_points))) / 2
    half = 5 * (0.2969 * np.sqrt(x) - 0.126 * x - 0.3516 * x**2 + 0.2843 * x**3 - 0.1036 * x**4)
    upper = np.stack([x, half], axis=1)
    return np.concatenate([upper, (upper * [1, -1])[-2:0:-1]])


_SECTION = _section()


def fuselage(
    radius: float, nose: float, tail: float, tail_radius: float, lift: float, boom: float, flatten: float
) -> Array:
    """A body of length 1 along z: round nose, straight middle, tapered tail.

    Args:
        radius: of the middle.
        nose: the length of the nose.
        tail: the length of the tail.
        tail_radius: the end's radius, over that of the middle.
        lift: how far the tail rises: 1 keeps its top straight, 0 its axis.
        boom: the exponent of the tail's taper: 1 is a cone, more stays thick for longer.
        flatten: height over width.
    """
    s = (1 - np.cos(np.linspace(0, np.pi, 24))) / 2  # (S,) from tail to nose
    into_nose, into_tail = np.clip((s - 1 + nose) / nose, 0, 1), np.clip((tail - s) / tail, 0, 1)
    taper = 1 - (1 - tail_radius) * into_tail**boom
    r = radius * np.sqrt(1 - into_nose**2) * taper  # (S,)
    rise = lift * radius * (1 - taper) - 0.25 * radius * into_nose**2
    a = angles(24)
    circle = np.stack([np.sin(a), flatten * np.cos(a), np.zeros_like(a)], axis=1)  # (K, 3)
    centre = np.stack([np.zeros_like(s), rise, s - 0.5], axis=1)  # (S, 3)
    return loft(centre[:, None] + r[:, None, None] * circle)


def nacelle(radius: float, length: float) -> Array:
    """A jet engine along z: a cowl with a thin lip, a recessed fan disc with its cone, and an exhaust cone."""
    cowl = [(0, -0.5), (0.25, -0.5), (0.55, -0.3), (0.95, -0.1), (1.0, 0.2), (0.88, 0.5), (0.8, 0.5)]
    inlet = [(0.8, 0.3), (0.25, 0.3), (0, 0.42)]
    return lathe(np.array(cowl + inlet) * [radius, length], 20, "z")


def propeller(blades: int, length: float, hub: float) -> Array:
    """A spinner of radius `hub` and twisted blades that reach `length` from the axis, turning around z."""
    spinner = lathe(np.array([(0, -0.2), (1, 0), (0.8, 0.9), (0.4, 1.5), (0, 1.7)]) * hub, 14, "z")
    blade = Wing(np.zeros(3), length, 0.2 * length, 0.6, 0.0, thickness=0.12).triangles(start=0.5 * hub)
    blade = rotate(move(blade, [0, 0, 0.1 * length]), "x", np.radians(65))  # the chord, nearly in the disc's plane
    return join(spinner, move(around(blade, blades, axis="z"), [0, 0, 0.5 * hub]))


def wheel(radius: float, width: float) -> Array:
    """A wheel that rolls along z, around the origin."""
    return move(cylinder(radius, width, sides=16, axis="x"), [-width / 2, 0, 0])


def landing_gear(wing: Wing, radius: float, tail_wheel: bool) -> Array:
    """Two main legs with wheels, and a third leg under the nose or a small wheel under the tail."""
    size = 0.35 * radius + 0.008
    ground = -2.0 * radius - size
    out = np.array([1.6 * radius + 0.02, ground, wing.root[2] - (0.1 if tail_wheel else 0.6) * wing.chord])
    hinge = np.array([0.7 * radius, -0.5 * radius, out[2]])
    main = join(rod(hinge, out, 0.006, sides=6), move(wheel(size, 0.6 * size), out))
    if tail_wheel:
        third = join(rod([0, 0, -0.44], [0, -0.8 * radius, -0.45], 0.004, sides=6))
        third = join(third, move(wheel(0.4 * size, 0.3 * size), [0, -0.8 * radius, -0.45]))
    else:
        third = join(rod([0, -0.5 * radius, 0.36], [0, ground, 0.37], 0.005, sides=6))
        third = join(third, move(wheel(0.7 * size, 0.5 * size), [0, ground, 0.37]))
    return join(mirrored(main), third)
