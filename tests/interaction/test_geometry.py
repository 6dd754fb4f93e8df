import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mfcdm.interaction import BallGeometry, boxes, geometry
from tests.interaction.interaction_problems import beyond, build, random_problem


def pairs_of(geometry):
    """The listed (query tile, source tile), as a set."""
    query = torch.repeat_interleave(torch.arange(len(geometry.near_offsets) - 1), geometry.near_offsets.diff())
    pairs = list(zip(query.tolist(), geometry.near_tiles.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def tile_of_each_row(order, num_tiles):
    """The global tile of every row (B, N)."""
    num_clouds, num_rows = order.shape
    position = torch.empty_like(order).scatter_(1, order, torch.arange(num_rows).expand_as(order))
    return position // boxes.TILE_SIZE + torch.arange(num_clouds)[:, None] * num_tiles


SIZES = st.sampled_from([1, 2, 17, 31, 32, 33, 64, 129, 300])
PROBLEMS = st.builds(
    random_problem,
    seed=st.integers(0, 10**6),
    num_queries=SIZES,
    num_sources=st.none() | SIZES,
    num_clouds=st.integers(1, 3),
    dim=st.sampled_from([1, 2, 3, 7]),
    num_channels=st.just(1),
    radius=st.sampled_from([1e-3, 0.1, 0.5, 100.0]),
    scale=st.sampled_from([1e-25, 1.0, 1e25]),
    offset=st.sampled_from([0.0, 100.0]),
    duplicates=st.booleans(),
    padded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)


@settings(max_examples=150, deadline=None)
@given(PROBLEMS)
def test_every_pair_closer_than_the_radius_is_listed_and_far_boxes_are_not(problem):
    geometry = build(problem)
    pairs = pairs_of(geometry)
    y, source_lengths = problem.sources
    x, y = problem.x.double(), y.double()
    query_tile = tile_of_each_row(geometry.query_order, geometry.query_tiles)
    source_tile = tile_of_each_row(geometry.source_order, geometry.source_tiles)
    difference = (x[:, :, None] - y[:, None]) / problem.radius  # float64, of numbers with 24 bits: exact to 1e-16
    close = difference.square().sum(-1) < 1
    close &= ~beyond(problem.lengths, x)[:, :, None] & ~beyond(source_lengths, y)[:, None]
    b, i, j = close.nonzero(as_tuple=True)
    wanted = set(zip(query_tile[b, i].tolist(), source_tile[b, j].tolist(), strict=True))
    assert wanted <= pairs
    for query, source in pairs:
        assert query // geometry.query_tiles == source // geometry.source_tiles  # of one cloud
        low, high = geometry.source_low[source], geometry.source_high[source]
        gap = torch.maximum(low - geometry.query_high[query], geometry.query_low[query] - high).clamp(min=0).double()
        assert (gap / problem.radius).norm() < 1 + 1e-5  # the slack is 11 eps of float32 at most, on the square


@settings(max_examples=60, deadline=None)
@given(PROBLEMS)
def test_tiles_partition_the_points_of_each_cloud_and_bound_them(problem):
    geometry = build(problem)
    for b, order in enumerate(geometry.query_order):
        length = int(geometry.query_lengths[b])
        assert sorted(order.tolist()) == list(range(problem.x.shape[1]))
        assert sorted(order[:length].tolist()) == list(range(length))  # the padding stands at the end
    tile = tile_of_each_row(geometry.query_order, geometry.query_tiles)
    valid = ~beyond(problem.lengths, problem.x)
    x, low, high = problem.x[valid], geometry.query_low[tile[valid]], geometry.query_high[tile[valid]]
    assert ((low <= x) & (x <= high)).all()
    occupied = torch.zeros(len(geometry.query_low), dtype=torch.bool)
    occupied[tile[valid]] = True
    assert (geometry.near_offsets.diff()[~occupied] == 0).all()
    assert (geometry.query_low[~occupied] == torch.inf).all()


@settings(max_examples=60, deadline=None)
@given(PROBLEMS)
def test_the_transpose_lists_the_same_pairs_the_other_way_round(problem):
    geometry = build(problem)
    assert pairs_of(geometry.transpose) == {(source, query) for query, source in pairs_of(geometry)}
    assert geometry.near_tiles.numel() == int(geometry.near_offsets[-1])
    if problem.y is not None:
        swapped = BallGeometry.build(problem.y, problem.radius, problem.source_lengths, problem.x, problem.lengths)
        assert torch.equal(swapped.near_offsets, geometry.transpose.near_offsets)
        assert torch.equal(swapped.near_tiles, geometry.transpose.near_tiles)
        assert torch.equal(swapped.query_order, geometry.transpose.query_order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_list_is_exact_at_the_radius(dtype):
    """Two tiles, each of 32 equal points, at distances that straddle the radius by a few units in the last place."""
    num_clouds, radius, eps = 1000, 0.3, torch.finfo(dtype).eps
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(num_clouds, 1, 3, generator=g, dtype=torch.float64), dim=-1)
    units = torch.randint(-40, 41, (num_clouds, 1, 1), generator=g)
    start = torch.rand(num_clouds, 1, 3, generator=g, dtype=torch.float64).to(dtype)
    end = (start + direction * radius * (1 + units.double() * eps)).to(dtype)
    x = torch.cat([start.expand(-1, 32, -1), end.expand(-1, 32, -1)], 1)
    geometry = BallGeometry.build(x, radius)
    assert geometry.query_tiles == 2
    listed = (geometry.near_offsets.diff().view(num_clouds, 2) == 2).all(1)
    if dtype == torch.float32:  # then float64 knows the distance of the stored points exactly enough
        distance = (start.double() - end.double()).norm(dim=-1)[:, 0]
        assert listed[distance < radius].all()
        assert not listed[distance > radius * (1 + 10 * eps)].any()  # the slack on the square is 7 eps
        assert (distance < radius).any()
        assert (distance > radius * (1 + 10 * eps)).any()
    else:
        # start and end are rounded by eps / 2 of numbers up to 1.3, so the distance by about 5 eps of the radius; the
        # unit vector, the sum of squares and the slack leave as many again
        assert listed[units[:, 0, 0] < -10].all()
        assert not listed[units[:, 0, 0] > 20].any()


def sphere(num_points):
    x = torch.randn(1, num_points, 3, generator=torch.Generator().manual_seed(0))
    return x / x.norm(dim=-1, keepdim=True)


def test_list_and_search_grow_linearly_on_a_surface(monkeypatch):
    """With R ~ N^(-1/2) a tile of a surface keeps a fixed number of neighbours: 16 N points, 16 times the pairs."""
    examined, is_near = [], boxes._is_near

    def counting(pairs, *arguments):
        examined.append(pairs.shape[1])
        return is_near(pairs, *arguments)

    monkeypatch.setattr(boxes, "_is_near", counting)
    found, searched = [], []
    for num_points in (4096, 65536):
        examined.clear()
        geometry = BallGeometry.build(sphere(num_points), 4 / num_points**0.5)
        found.append(len(geometry.near_tiles))
        searched.append(sum(examined))
    # Quadratic growth would be 256. The search opens one level more (log N); the list may have a
    # quarter more pairs, for the jumps of the curve.
    assert found[1] < 20 * found[0]
    assert searched[1] < 32 * searched[0]
    assert found[1] < 0.02 * (65536 / 32) ** 2


def test_one_outlier_does_not_spoil_the_sort():
    x = sphere(4096)
    alone = len(BallGeometry.build(x, 0.1).near_tiles)
    x[0, 17] = 300.0  # the cells of the curve grow by 150: still 2^16 / 300 of them across the sphere
    assert len(BallGeometry.build(x, 0.1).near_tiles) < 1.2 * alone


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_diverged_point_does_not_spoil_the_sort(value):
    x = sphere(4096)
    alone = len(BallGeometry.build(x, 0.1).near_tiles)
    x[0, 17, 1] = value
    # only its own tile, one of 128, may become everybody's
    assert len(BallGeometry.build(x, 0.1).near_tiles) < 1.1 * alone + 2 * 128


def test_points_that_diverged_are_near_everybody_of_their_cloud():
    x = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
    x[1, 5] = torch.nan
    geometry = BallGeometry.build(x, 0.1, torch.tensor([40, 96]))  # tiles 2, 3 and 7 are empty
    tile = int(tile_of_each_row(geometry.query_order, geometry.query_tiles)[1, 5])
    assert {source for query, source in pairs_of(geometry) if query == tile} == {4, 5, 6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.6}, "radius is 0.6, but the geometry was built for radius 0.5"),
        ({"x": torch.zeros(2, 9, 3)}, r"x has shape \(2, 9, 3\), but the geometry was built for \(2, 10, 3\)"),
        ({"x": torch.zeros(3, 10, 3)}, r"x has shape \(3, 10, 3\)"),
        ({"x": torch.zeros(2, 10, 2)}, r"x has shape \(2, 10, 2\)"),
        ({"x": torch.zeros(2, 10, 3, device="meta")}, "x is on meta, but the geometry is on cpu"),
        ({"lengths": None}, r"lengths of x are \[10, 10\], but the geometry was built for \[10, 4\]"),
        ({"lengths": torch.tensor([9, 4])}, r"lengths of x are \[9, 4\]"),
        ({"y": torch.zeros(2, 10, 3)}, "built without separate sources y, but is used with them"),
        ({"x": torch.ones(2, 10, 3)}, "x has moved since the geometry was built: a point lies 1 outside its tile"),
    ],
)
def test_a_mismatch_is_refused(change, message):
    lengths = torch.tensor([10, 4])
    geometry = BallGeometry.build(torch.zeros(2, 10, 3), 0.5, lengths)
    arguments = {"x": torch.zeros(2, 10, 3), "radius": 0.5, "lengths": lengths, "y": None, "source_lengths": None}
    geometry.check(**arguments)
    with pytest.raises(ValueError, match=message):
        geometry.check(**{**arguments, **change})


def test_separate_sources_are_checked_too():
    x, y = torch.zeros(1, 4, 2), torch.zeros(1, 6, 2)
    geometry = BallGeometry.build(x, 1.0, y=y)
    geometry.check(x, 1.0, None, y, None)
    with pytest.raises(ValueError, match=r"y has shape \(1, 4, 2\), but the geometry was built for \(1, 6, 2\)"):
        geometry.check(x, 1.0, None, x, None)
    with pytest.raises(ValueError, match="built with separate sources y, but is used without them"):
        geometry.check(x, 1.0, None, None, None)


def noisy(x, share, seed=0):
    """Move every point by normal noise."""
    return x + share * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def test_positions_that_moved_are_refused_on_either_side():
    problem = random_problem(0, 400, 300, padded=True, radius=0.5, dtype=torch.float32)
    built, given = build(problem), (problem.radius, problem.lengths, problem.y, problem.source_lengths)
    built.check(problem.x, *given)
    # 13 tiles a cloud of points about 1 apart: that noise of one radius leaves the first of all of them inside is a
    # chance of less than 2^-13
    with pytest.raises(ValueError, match=r"x has moved since the geometry was built: a point lies .* outside its tile"):
        built.check(noisy(problem.x, 0.5), *given)
    radius, lengths, y, source_lengths = given
    with pytest.raises(ValueError, match="y has moved since the geometry was built"):
        built.check(problem.x, radius, lengths, noisy(y, 0.5), source_lengths)
    for small in (1e-7, 1e-4):  # roundings of another dtype are no motion
        built.check(noisy(problem.x, small), *given)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_padding_and_points_that_diverged_count_as_unmoved(value):
    problem = random_problem(1, 200, padded=True, dtype=torch.float32).with_padding(0.0)
    problem.x[0, 0] = value
    built = build(problem)
    built.check(problem.x, problem.radius, problem.lengths, None, None)
    built.check(problem.with_padding(value).x, problem.radius, problem.lengths, None, None)


class Synchronisations(TorchDispatchMode):
    """Counts the operators that make the host wait for a device, by name."""

    WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "equal", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords, name = keywords or {}, function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        repeats = function is torch.ops.aten.repeat_interleave.Tensor and keywords.get("output_size") is None
        if masks or repeats or name in self.WAITING:
            self.seen.append(name)
        return function(*arguments, **keywords)


def test_the_counter_of_synchronisations_counts():
    x = torch.arange(4)
    with Synchronisations() as waits:
        _ = x[x > 1], x.nonzero(), x.sum().item(), bool((x > 0).any()), x.repeat_interleave(x), x.unique()
        _ = x[x], x.repeat_interleave(x, output_size=6), x.repeat_interleave(2), x.cumsum(0), x.where(x > 1, 0)
    scalar = "_local_scalar_dense"
    assert waits.seen == ["index", "nonzero", scalar, scalar, "repeat_interleave", "_unique2"]


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Let the geometry on the CPU ask the host as seldom as on an accelerator; the checks of values ask besides."""
    search = geometry.near_list
    monkeypatch.setattr(geometry, "near_list", lambda q, s, radius, room: search(q, s, radius, geometry.ROOM))


@pytest.mark.parametrize("num_sources", [None, 3000])
def test_an_accelerator_is_synchronised_once_by_a_build(as_on_an_accelerator, num_sources):
    problem = random_problem(0, 5000, num_sources, radius=0.2, dtype=torch.float32)
    with Synchronisations() as waits:
        built = build(problem)
        _ = built.transpose
    assert waits.seen == ["_local_scalar_dense"]
    # and not because there was room for all pairs
    assert geometry.ROOM * built.query_tiles < built.query_tiles * built.source_tiles


@settings(max_examples=100, deadline=None)
@given(PROBLEMS, st.sampled_from([1, 2, 64]))
def test_a_search_with_any_room_finds_the_same_list(problem, room):
    """With little room it runs out and starts again."""
    built = build(problem)
    sides = ((built.query_low, built.query_high), (built.source_low, built.source_high))
    clouds = len(problem.x)
    query_boxes, source_boxes = (
        (*(corner.view(clouds, -1, corner.shape[1]) for corner in side), (side[0] <= side[1]).all(1).view(clouds, -1))
        for side in sides
    )
    offsets, near = boxes.near_list(query_boxes, source_boxes, built.radius, room)
    assert torch.equal(offsets, built.near_offsets)
    assert torch.equal(near, built.near_tiles)


def test_a_search_that_runs_out_of_room_starts_again_with_the_host():
    built = BallGeometry.build(sphere(4096), 10.0)  # each of 128 tiles is near all
    tiles = (built.query_low[None], built.query_high[None], torch.ones(1, 128, dtype=torch.bool))
    asked = []
    for room in (127, 128):
        with Synchronisations() as waits:
            _, near = boxes.near_list(tiles, tiles, 10.0, room)
        assert torch.equal(near, built.near_tiles)
        asked.append(len(waits.seen))
    assert asked[0] > asked[1] == 1
