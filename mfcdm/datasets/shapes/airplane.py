"""Airplanes: airliners, business jets, turboprops, light airplanes, biplanes, gliders and fighters.

The fuselage has length 1, from the tail at z = -0.5 to the nose at z = +0.5; wings spread along x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfcdm.datasets.shapes.airplane_parts import Array, Wing, fuselage, landing_gear, nacelle, propeller, wheel
from mfcdm.datasets.shapes.choices import chance, pick
from mfcdm.datasets.shapes.primitives import ellipsoid, join, lathe, mirrored, move, rod, rotate

Range = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """What the airplanes of one kind have in common: ranges of numbers and lists of options.

    Lengths are in units of the fuselage, angles in degrees; `wing_height` is in radii of the fuselage.
    """

    name: str
    radius: Range
    nose: Range
    span: Range  # of one wing
    chord: Range
    taper: Range
    sweep: Range
    dihedral: Range
    wing_front: Range  # z of the leading edge at the root
    wing_height: tuple[float, ...]
    engines: tuple[str, ...]
    tails: tuple[str, ...]
    gear: float  # probability of a landing gear


KINDS = (
    Kind(
        "airliner", (0.042, 0.062), (0.1, 0.16), (0.42, 0.56), (0.17, 0.25), (0.2, 0.35), (22, 36), (3, 7),
        (0.1, 0.2), (-0.6,), ("under 2", "under 2", "under 4", "rear 2", "rear 3"), ("low", "low", "T"), 0.3,
    ),
    Kind(
        "business jet", (0.048, 0.064), (0.16, 0.24), (0.36, 0.5), (0.15, 0.22), (0.25, 0.45), (8, 30), (2, 6),
        (0.02, 0.1), (-0.7,), ("rear 2",), ("T", "T", "cross"), 0.3,
    ),
    Kind(
        "turboprop", (0.05, 0.068), (0.1, 0.18), (0.45, 0.62), (0.12, 0.17), (0.4, 0.65), (0, 6), (0, 4),
        (0.06, 0.14), (0.85, 0.85, -0.6), ("wing 2", "wing 2", "wing 4"), ("T", "low", "H"), 0.4,
    ),
    Kind(
        "light", (0.065, 0.088), (0.12, 0.2), (0.52, 0.72), (0.16, 0.22), (0.55, 1.0), (-2, 4), (1, 7),
        (0.16, 0.24), (1.0, 1.0, -0.7), ("nose",), ("low", "low", "T", "V"), 0.85,
    ),
    Kind(
        "biplane", (0.06, 0.08), (0.08, 0.14), (0.5, 0.68), (0.15, 0.2), (0.75, 1.0), (0, 10), (0, 4),
        (0.18, 0.28), (-0.8,), ("nose",), ("low",), 1.0,
    ),
    Kind(
        "glider", (0.036, 0.05), (0.16, 0.24), (0.7, 0.95), (0.09, 0.13), (0.35, 0.6), (-1, 3), (1, 4),
        (0.12, 0.2), (0.5,), ("none",), ("T", "T", "low", "V"), 0.0,
    ),
    Kind(
        "fighter", (0.045, 0.062), (0.28, 0.42), (0.24, 0.38), (0.34, 0.52), (0.1, 0.35), (35, 55), (-4, 3),
        (0.05, 0.16), (-0.2, 0.3), ("jet 1", "jet 2"), ("low", "twin", "twin", "none"), 0.2,
    ),
)  # fmt: skip


def airplane(rng: np.random.Generator) -> Array:
    """Draw the triangles (F, 3, 3) of an airplane; its nose points towards +z and its fin upwards."""
    kind = pick(rng, KINDS + KINDS[:2])  # airliners and business jets are twice as frequent
    radius, height = rng.uniform(*kind.radius), pick(rng, kind.wing_height)
    height *= radius
    body = fuselage(
        radius,
        nose=rng.uniform(*kind.nose),
        tail=rng.uniform(0.35, 0.55),
        tail_radius=pick(rng, [0.7, 0.85]) if kind.name == "fighter" else rng.uniform(0.12, 0.25),
        lift=rng.uniform(0.2, 0.9),
        boom=rng.uniform(1.0, 1.5) if kind.name == "glider" else rng.uniform(1.5, 2.2),
        flatten=rng.uniform(0.9, 1.15),
    )
    wing = Wing(
        root=np.array([0, height, rng.uniform(*kind.wing_front)]),
        span=rng.uniform(*kind.span),
        chord=rng.uniform(*kind.chord),
        taper=rng.uniform(*kind.taper),
        sweep=np.radians(rng.uniform(*kind.sweep)),
        dihedral=np.radians(rng.uniform(*kind.dihedral)),
        thickness=rng.uniform(0.05, 0.07) if kind.name == "fighter" else rng.uniform(0.09, 0.14),
    )
    winglet = rng.uniform(0.03, 0.09) if kind.name in ("airliner", "business jet", "glider") and chance(rng, 0.5) else 0
    parts = [body, mirrored(wing.triangles(start=0.6 * radius, winglet=winglet))]
    parts.append(tail(rng, kind, radius))
    parts.append(engines(rng, pick(rng, kind.engines), wing, radius))
    parts.append(details(rng, kind, wing, radius))
    if chance(rng, kind.gear):
        parts.append(landing_gear(wing, radius, tail_wheel=kind.name in ("light", "biplane") and chance(rng, 0.6)))
    return join(*parts)


def tail(rng: np.random.Generator, kind: Kind, radius: float) -> Array:
    """Horizontal and vertical tail surfaces: low, T, cross, V, H (fins at the tips), twin fins, or a fin alone."""
    form = pick(rng, kind.tails)
    sweep = np.radians(rng.uniform(30, 45) if max(kind.sweep) > 20 else rng.uniform(5, 30))
    chord, fin_span = rng.uniform(0.11, 0.15), rng.uniform(0.13, 0.19)
    back = -0.5 + chord + rng.uniform(0.01, 0.05)  # z of the leading edges' roots
    fin = Wing(np.array([0, 0.4 * radius, back + 0.04]), fin_span, 1.25 * chord, rng.uniform(0.35, 0.6), sweep)
    height = {"T": 1.0, "cross": 0.5}.get(form, 0.0)
    stabilizer = Wing(
        root=np.array([0, 0.45 * radius, back]) if height == 0 else fin.upright_leading(height),
        span=rng.uniform(0.15, 0.22) * (1.15 if kind.name in ("light", "turboprop", "biplane") else 1),
        chord=chord * (0.85 if height else 1),
        taper=rng.uniform(0.4, 0.75),
        sweep=sweep * rng.uniform(0.5, 0.9),
        dihedral=np.radians(rng.uniform(35, 45) if form == "V" else rng.uniform(0, 6)),
    )
    parts = [] if form == "none" else [mirrored(stabilizer.triangles())]
    if form == "H":
        tip = stabilizer.leading(1.0) - [0, 0.4 * fin_span, 0]
        parts.append(mirrored(move(fin.upright() * [1, 0.8, 1], tip - fin.root * [1, 0.8, 1])))
    elif form == "twin":
        lean = -np.radians(rng.uniform(0, 25))
        parts.append(mirrored(move(rotate(fin.upright(), "z", lean), [0.8 * radius, 0, 0.02])))
    elif form != "V":
        parts.append(fin.upright())
    return join(*parts)


def engines(rng: np.random.Generator, layout: str, wing: Wing, radius: float) -> Array:
    """Engines of a layout: under the wing, at the rear, on the wing with propellers, at the nose, inside, or none."""
    size = radius * rng.uniform(0.45, 0.62)
    long = size * rng.uniform(3.0, 4.2)
    blades = pick(rng, [2, 3, 4, 6])
    parts = [np.zeros((0, 3, 3))]
    if layout.startswith("under"):
        for u in np.array([0.33, 0.62] if layout == "under 4" else [rng.uniform(0.3, 0.38)]):
            at = move(wing.leading(u), [0, -1.35 * size, 0.25 * long])
            root = move(at, [0, 0.9 * size, -0.2 * long])
            pylon = Wing(root, 0.5 * size, 0.7 * long, 1.0, 0.9, thickness=0.08)
            parts.append(mirrored(join(move(nacelle(size, long), at), pylon.upright())))
    elif layout.startswith("rear"):
        at = np.array([radius + 1.25 * size, 0.5 * radius, -0.24])
        pylon = Wing(at - [radius + 0.6 * size, 0, 0.3 * long], radius, 0.5 * long, 1.0, 0.0)
        parts.append(mirrored(join(move(nacelle(size, long), at), pylon.triangles())))
        if layout == "rear 3":
            parts.append(move(nacelle(size, long), [0, 1.1 * radius + size, -0.3]))
    elif layout.startswith("wing"):
        for u in [0.3, 0.58] if layout == "wing 4" else [rng.uniform(0.28, 0.36)]:
            at = move(wing.leading(u), [0, -0.1 * size, 0.08])
            pod = lathe([(0, -0.26), (0.6 * size, -0.16), (0.8 * size, -0.02), (0.6 * size, 0), (0, 0)], 16, "z")
            screw = propeller(max(blades, 3), length=rng.uniform(0.075, 0.095), hub=0.35 * size)
            parts.append(mirrored(join(move(pod, at), move(screw, at))))
    elif layout == "nose":
        hub = 0.3 * radius
        parts.append(move(propeller(min(blades, 3), length=rng.uniform(0.12, 0.18), hub=hub), [0, 0, 0.495]))
    elif layout.startswith("jet"):
        nozzle = [(0.6, 0.06), (0.75, 0.04), (0.6, -0.06), (0.5, -0.06), (0.5, 0.03), (0, 0.03)]
        part = lathe(np.array(nozzle) * [radius, 1], 20, "z")
        shift = 0.62 * radius
        parts.append(mirrored(move(part, [shift, 0, -0.5])) if layout == "jet 2" else move(part, [0, 0, -0.5]))
        intake = lathe(np.array([(0.35, -0.3), (0.6, -0.1), (0.6, 0.1), (0.5, 0.1), (0.5, 0)]) * [radius, 1], 16, "z")
        parts.append(mirrored(move(intake, [1.15 * radius, -0.3 * radius, 0.12])))
    return join(*parts)


def details(rng: np.random.Generator, kind: Kind, wing: Wing, radius: float) -> Array:
    """What makes a kind recognisable from near: canopies, struts, second wings, flap fairings, missiles."""
    parts = [np.zeros((0, 3, 3))]
    if kind.name in ("light", "biplane", "glider", "fighter"):
        front = {"light": 0.12, "biplane": -0.02, "glider": 0.24, "fighter": 0.22}[kind.name]
        parts.append(ellipsoid([0.62 * radius, 0.75 * radius, rng.uniform(0.08, 0.13)], [0, 0.75 * radius, front]))
    if kind.name == "light" and wing.root[1] > 0:
        foot = np.array([0.7 * radius, -0.6 * radius, wing.root[2] - 0.06])
        parts.append(mirrored(rod(foot, wing.leading(0.5) - [0, 0, 0.4 * wing.chord_at(0.5)], 0.006)))
    if kind.name == "biplane":
        rise = np.array([0, 2.1 * radius + 0.06, rng.uniform(0.0, 0.05)])
        upper = Wing(wing.root + rise, wing.span * rng.uniform(1, 1.12), wing.chord, wing.taper, wing.sweep, 0.02)
        parts.append(mirrored(upper.triangles()))
        for u, z in [(0.75, 0.2), (0.75, 0.7), (0.15, 0.2), (0.15, 0.7)]:
            low = wing.leading(u) - [0, 0, z * wing.chord]
            parts.append(mirrored(rod(low, upper.leading(u) - [0, 0, z * wing.chord], 0.005, sides=6)))
    if kind.name == "airliner" and chance(rng, 0.7):
        for u in (0.25, 0.45, 0.65):
            at = wing.leading(u) - [0, 0.012, 0.85 * wing.chord_at(u)]
            parts.append(mirrored(ellipsoid([0.007, 0.009, 0.05], at, sides=8, rings=7)))
    if kind.name == "fighter" and chance(rng, 0.6):
        for u in (0.55, 0.8) if chance(rng, 0.5) else (1.0,):
            at = wing.leading(u) - [0, 0.02 if u < 1 else 0, 0.5 * wing.chord_at(u)]
            missile = lathe([(0, -0.09), (0.008, -0.09), (0.008, 0.06), (0, 0.09)], 8, "z")
            parts.append(mirrored(move(missile, at)))
    if kind.name == "glider":
        parts.append(move(wheel(0.02, 0.014), [0, -0.9 * radius, 0.1]))
    return join(*parts)
