"""Laws of triangle surfaces: areas in closed form, sampling uniform by area, exact distances."""

import numpy as np
import pytest
from scipy import stats

from mfcdm.datasets.shapes import primitives
from mfcdm.datasets.shapes.surface import Surface, point_triangle_distance, split_long_edges, triangle_areas

# Tests of a null hypothesis use fixed seeds and this level: they are deterministic, and would be unlucky once in a
# million choices of the seed.
LEVEL = 1e-6


def area(triangles):
    return triangle_areas(triangles).sum()


def closest_on_triangle(p, triangle):
    """The definition, by other means than the library: the least norm over the interior (least squares) and edges."""
    a = triangle[0]
    best = np.inf
    basis = np.stack([triangle[1] - a, triangle[2] - a], axis=1)  # (3, 2)
    s, t = np.linalg.lstsq(basis, p - a, rcond=None)[0]
    if s >= 0 and t >= 0 and s + t <= 1:
        best = np.linalg.norm(a + basis @ [s, t] - p)
    for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        edge = end - start
        u = np.clip((p - start) @ edge / (edge @ edge), 0, 1) if edge @ edge > 0 else 0.0
        best = min(best, np.linalg.norm(start + u * edge - p))
    return best


def brute_force(points, triangles):
    """The minimum over all triangles, without any tree: (n,)."""
    every = [point_triangle_distance(np.broadcast_to(p, (len(triangles), 3)), triangles).min() for p in points]
    return np.array(every)


# --- areas ---------------------------------------------------------------------------------------------------------


def test_polyhedral_areas_are_exact():
    a, b, c, n, r, h = 0.3, 0.5, 0.7, 7, 0.4, 0.9
    side, polygon = 2 * r * np.sin(np.pi / n), n / 2 * r**2 * np.sin(2 * np.pi / n)
    assert area(primitives.box([a, b, c], [1, 2, 3])) == pytest.approx(2 * (a * b + b * c + c * a), rel=1e-12)
    assert area(primitives.cylinder(r, h, sides=n)) == pytest.approx(2 * polygon + n * side * h, rel=1e-12)
    assert area(primitives.rod([0, 0, 0], [0, h, 0], r, sides=n)) == pytest.approx(
        2 * polygon + n * side * h, rel=1e-12
    )
    assert area(primitives.beam([0, 0, 0], [0, 0, h], a)) == pytest.approx(2 * a**2 + 4 * a * h, rel=1e-12)


CURVED = {
    "ellipsoid (sphere)": (lambda n: primitives.ellipsoid([0.5] * 3, sides=2 * n, rings=n + 1), 4 * np.pi * 0.25),
    "torus": (lambda n: primitives.torus(0.4, 0.1, sides=2 * n, tube_sides=n), 4 * np.pi**2 * 0.4 * 0.1),
    "closed tube": (
        lambda n: primitives.tube(
            np.stack(
                [0.4 * np.cos(primitives.angles(2 * n)), np.zeros(2 * n), 0.4 * np.sin(primitives.angles(2 * n))], 1
            ),
            0.1,
            sides=n,
            closed=True,
        ),
        4 * np.pi**2 * 0.4 * 0.1,
    ),
    "cone": (lambda n: primitives.cylinder(0.3, 0.4, sides=2 * n, top_radius=0.0), np.pi * 0.3 * (0.3 + 0.5)),
}


@pytest.mark.parametrize("name", CURVED)
def test_inscribed_areas_converge_at_second_order(name):
    build, exact = CURVED[name]
    n = np.array([8, 16, 32, 64])
    errors = np.array([abs(area(build(k)) - exact) for k in n])
    order = -np.polyfit(np.log(n), np.log(errors), 1)[0]
    assert order == pytest.approx(2, abs=0.1)
    assert errors[-1] < 2e-3 * exact


CLOSED = {
    "box": primitives.box([1, 2, 3]),
    "cylinder": primitives.cylinder(0.3, 1.0),
    "ellipsoid": primitives.ellipsoid([1, 2, 3]),
    "torus": primitives.torus(0.4, 0.1, axis="x"),
    "cushion": primitives.cushion(primitives.superellipse(0.5, 0.3, 4.0), 0.1, 0.02),
    "bent tube": primitives.tube(primitives.curve([[0, 0, 0], [0, 1, 0], [0, 1, 1]]), 0.1, flatten=0.5),
    "rounded polyline": primitives.tube(primitives.rounded([[0, 0, 0], [1, 0, 0], [1, 1, 0]], 0.2), 0.05),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_primitives_have_no_holes(name):
    corners = CLOSED[name].round(9) + 0.0  # equal corners may differ in their last bit
    names = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(-1, 3)  # (F, 3)
    edges = np.sort(np.stack([names, np.roll(names, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_curves_and_motions():
    control = np.array([[0.0, 0, 0], [1, 2, 0], [3, 0, 1]])
    path = primitives.curve(control, 5)
    np.testing.assert_allclose(path[[0, -1]], control[[0, -1]])
    np.testing.assert_allclose(path[2], [1, 2, 1] @ control / 4)  # Bernstein weights at 1/2
    shape = primitives.box([1, 2, 3], [4, 5, 6])
    np.testing.assert_allclose(primitives.rotate(shape, "y", np.pi / 2)[..., 0], shape[..., 2], atol=1e-12)  # z to x
    np.testing.assert_allclose(area(primitives.rotate(shape, "x", 0.7)), area(shape))
    np.testing.assert_allclose(primitives.mirrored(shape).mean(axis=(0, 1)), [0, 5, 6])


# --- sampling ------------------------------------------------------------------------------------------------------


def test_faces_of_a_box_are_met_in_proportion_to_their_area():
    sides, n = np.array([0.2, 0.5, 1.0]), 60_000
    points = Surface(primitives.box(sides)).sample(n, np.random.default_rng(0))
    on = np.abs(np.abs(points) - sides / 2) < 1e-12  # (n, 3)
    observed = np.concatenate([(on & (points > 0)).sum(0), (on & (points < 0)).sum(0)])
    expected = np.tile(sides.prod() / sides, 2)
    assert stats.chisquare(observed, n * expected / expected.sum()).pvalue > LEVEL


def test_points_are_uniform_within_a_triangle():
    triangle, n, m = np.array([[0.0, 0, 0], [2, 0, 0], [0.5, 1.5, 1]]), 40_000, 4
    points = Surface(triangle[None]).sample(n, np.random.default_rng(1))
    basis = np.stack([triangle[1], triangle[2]], axis=1)  # (3, 2)
    s, t = np.linalg.lstsq(basis, points.T, rcond=None)[0]  # barycentric coordinates
    # lines s, t and s + t = k / m cut the triangle into m^2 congruent ones
    i, j, k = np.floor(m * s), np.floor(m * t), np.floor(m * (s + t))
    cells = np.unique(np.stack([i, j, k]), axis=1, return_counts=True)[1]
    assert len(cells) == m * m
    assert stats.chisquare(cells).pvalue > LEVEL


def test_first_points_of_a_draw_do_not_depend_on_its_length():
    surface = Surface(primitives.torus(0.4, 0.1))
    few, many = (surface.sample(n, np.random.default_rng(5)) for n in (7, 1000))
    np.testing.assert_array_equal(few, many[:7])


def test_triangles_of_area_zero_are_never_drawn():
    flat = np.array([[[9.0, 9, 9], [9, 9, 10], [9, 9, 11]]])
    surface = Surface(np.concatenate([flat, primitives.box([1, 1, 1]), flat]))

    class Extremes(np.random.Generator):
        def random(self, size):
            return np.linspace([0, 0, 0], np.nextafter([1, 1, 1], 0), size[0])

    points = surface.sample(100, Extremes(np.random.PCG64()))
    assert np.abs(points).max() <= 0.5 + 1e-12


# --- distances -----------------------------------------------------------------------------------------------------


def test_distance_to_one_triangle_is_its_definition():
    rng = np.random.default_rng(0)
    triangles, points = rng.normal(size=(400, 3, 3)), 1.5 * rng.normal(size=(400, 3))
    triangles[:50, 2] = triangles[:50, 0] + 1e-4 * rng.normal(size=(50, 3))  # needles
    triangles[50:60, 2] = (triangles[50:60, 0] + triangles[50:60, 1]) / 2  # segments
    triangles[60:65] = triangles[60:65, :1]  # points
    expected = [closest_on_triangle(p, triangle) for p, triangle in zip(points, triangles, strict=True)]
    np.testing.assert_allclose(point_triangle_distance(points, triangles), expected, rtol=1e-9)


def test_distance_to_a_box_is_its_closed_form():
    half = np.array([0.1, 0.25, 0.5])
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3))
    gap = np.abs(points) - half
    outside = np.linalg.norm(np.maximum(gap, 0), axis=1)
    expected = np.where((gap < 0).all(axis=1), -gap.max(axis=1), outside)
    np.testing.assert_allclose(Surface(primitives.box(2 * half)).distance(points), expected, atol=1e-12)


def test_distance_to_an_inscribed_sphere_is_between_its_radii():
    sphere = primitives.ellipsoid([1, 1, 1], sides=32, rings=17)
    inner = brute_force(np.zeros((1, 3)), sphere)[0]  # the radius of the largest ball inside
    assert 0.98 < inner < 1
    points = np.random.default_rng(0).normal(size=(2000, 3))
    radius, distance = np.linalg.norm(points, axis=1), Surface(sphere).distance(points)
    slack = 1e-12
    assert (distance >= np.where(radius > 1, radius - 1, inner - radius) - slack).all()
    assert (distance <= np.where(radius > 1, radius - inner, 1 - radius) + slack)[(radius > 1) | (radius < inner)].all()


MESHES = {
    "slats and a large box": np.concatenate(
        [primitives.box([1, 0.01, 0.01], [0, y, 0]) for y in np.linspace(-1, 1, 9)] + [primitives.box([3, 0.1, 3])]
    ),
    "sphere": primitives.ellipsoid([1, 1, 1], sides=24, rings=13),
    "soup": np.random.default_rng(3).normal(size=(200, 3, 3)),
    "one triangle": np.array([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]]),
}


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("spread", [0.3, 1.0, 50.0])
def test_pruning_changes_nothing(name, spread):
    surface = Surface(MESHES[name])
    points = spread * np.random.default_rng(0).normal(size=(150, 3))
    points[0] = 0  # the centre of the sphere, as far from every part of it
    corners = surface.triangles.reshape(-1, 3)[:19]
    points[1 : 1 + len(corners)] = corners
    np.testing.assert_allclose(surface.distance(points), brute_force(points, surface.triangles), rtol=1e-12, atol=1e-13)


def test_sampled_points_are_at_distance_zero_and_distance_is_lipschitz():
    surface, rng = Surface(MESHES["slats and a large box"]), np.random.default_rng(0)
    points = surface.sample(5000, rng)  # more than one chunk
    assert surface.distance(points).max() < 1e-13
    step = 0.05 * rng.normal(size=points.shape)
    assert (surface.distance(points + step) <= np.linalg.norm(step, axis=1) + 1e-13).all()


def test_cutting_triangles_keeps_their_union():
    triangles = np.concatenate([primitives.box([1, 2, 0.01]), MESHES["soup"][:5]])
    pieces = split_long_edges(triangles, longest=0.2)
    assert np.linalg.norm(pieces - np.roll(pieces, 1, axis=1), axis=-1).max() <= 0.2
    assert area(pieces) == pytest.approx(area(triangles), rel=1e-12)
    assert brute_force(pieces.reshape(-1, 3)[::20], triangles).max() < 1e-13


def test_normalized_box_is_centred_and_has_longest_side_one():
    surface = Surface(primitives.box([2, 4, 1], [7, 8, 9])).normalized()
    np.testing.assert_allclose(surface.bounds, [[-0.25, -0.5, -0.125], [0.25, 0.5, 0.125]], atol=1e-15)


def test_no_points_have_no_distances():
    assert Surface(MESHES["sphere"]).distance(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("triangles", "message"),
    [
        (np.zeros((0, 3, 3)), r"\(0, 3, 3\).*F >= 1"),
        (np.zeros((4, 3)), r"\(4, 3\)"),
        (np.full((1, 3, 3), np.nan), "NaN"),
        (np.zeros((1, 3, 3)), "area of 0.0"),
    ],
)
def test_bad_triangles_are_refused(triangles, message):
    with pytest.raises(ValueError, match=message):
        Surface(triangles)


def test_bad_points_are_refused():
    surface = Surface(MESHES["one triangle"])
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        surface.distance(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        surface.distance([[0, 0, np.nan]])
    with pytest.raises(ValueError, match="num_points is 0"):
        surface.sample(0, np.random.default_rng(0))
