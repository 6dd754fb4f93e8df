"""PyTorch3D's door: laws against a stand-in with its documented surface, and against the real one where it is there."""

import sys
from types import ModuleType

import pytest
import torch

from mfcdm.datasets import Clouds
from mfcdm.metrics import chamfer_distance, from_pointclouds, pairwise, to_pointclouds
from mfcdm.metrics.pytorch3d_interop import PyTorch3DMissing
from tests.metrics.clouds import normal, padded


class Pointclouds:
    """The documented surface: a list of (P, 3), given back by points_list()."""

    def __init__(self, points, normals=None, features=None):
        assert isinstance(points, list)
        if any(cloud.ndim != 2 or cloud.shape[1] != 3 for cloud in points):
            raise ValueError("Clouds in list must be of shape Px3 or empty")
        self._points = points

    def points_list(self):
        return self._points


def documented_chamfer(
    x,
    y,
    x_lengths=None,
    y_lengths=None,
    x_normals=None,
    y_normals=None,
    weights=None,
    batch_reduction="mean",
    point_reduction="mean",
    norm=2,
    single_directional=False,
    abs_cosine=True,
):
    """What the documentation says, one pair at a time; norm 2 is squared, as the distances of its knn_points are."""
    sides = []
    for b in range(len(x)):
        p, q = x[b, : int(x_lengths[b])], y[b, : int(y_lengths[b])]
        d = (p[:, None] - q[None]).abs().sum(-1) if norm == 1 else (p[:, None] - q[None]).square().sum(-1)
        to_y, to_x = d.amin(dim=1), d.amin(dim=0)
        reduce = {"mean": torch.mean, "sum": torch.sum, "max": torch.max}[point_reduction]
        sides.append(reduce(to_y) + (0 if single_directional else reduce(to_x)))
    loss = torch.stack(sides)
    return {None: loss, "mean": loss.mean(), "sum": loss.sum()}[batch_reduction], None


@pytest.fixture
def stand_in(monkeypatch):
    """A module of PyTorch3D's names, and how often its chamfer distance was called."""
    calls = []

    def chamfer(x, y, **options):
        calls.append(options)
        assert bool(x.isfinite().all() and y.isfinite().all()), "padding may not reach it"
        assert options["x_lengths"].device == x.device
        return documented_chamfer(x, y, **options)

    modules = {name: ModuleType(name) for name in ("pytorch3d", "pytorch3d.structures", "pytorch3d.loss")}
    modules["pytorch3d.structures"].Pointclouds = Pointclouds
    modules["pytorch3d.loss"].chamfer_distance = chamfer
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)  # which import takes for missing


def ragged(dtype=torch.float32):
    return [normal(size, 3, seed=size).to(dtype) for size in (4, 9, 1)]


@pytest.mark.usefixtures("stand_in")
class TestClouds:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_there_and_back_nothing_changes(self, dtype):
        x, lengths = padded(ragged(dtype))
        back = from_pointclouds(to_pointclouds(x, lengths))
        assert back.x.dtype == dtype
        assert back.lengths.tolist() == lengths.tolist()
        assert all(torch.equal(one, other) for one, other in zip(back.points(), ragged(dtype), strict=True))
        assert torch.equal(back.x, from_pointclouds(to_pointclouds(back)).x)  # Clouds, too

    def test_what_leaves_has_no_padding(self):
        points = to_pointclouds(*padded(ragged())).points_list()
        assert all(torch.equal(one, other) for one, other in zip(points, ragged(), strict=True))

    def test_clouds_of_one_size_have_no_lengths(self):
        x = normal(2, 5, 3)
        back = from_pointclouds(to_pointclouds(Clouds(x)))
        assert back.lengths is None
        assert torch.equal(back.x, x)

    def test_gradients_pass(self):
        x = normal(2, 5, 3).requires_grad_()
        from_pointclouds(to_pointclouds(x, torch.tensor([5, 2]))).x.square().sum().backward()
        expected = 2 * x.detach()
        expected[1, 2:] = 0
        assert torch.equal(x.grad, expected)

    def test_what_they_cannot_hold_is_refused(self):
        with pytest.raises(ValueError, match="points of dimension 3, but these have 2"):
            to_pointclouds(normal(2, 5, 2))
        with pytest.raises(ValueError, match="cloud 1 of clouds has NaN"):
            to_pointclouds(normal(2, 5, 3).index_fill(0, torch.tensor([1]), torch.nan))
        with pytest.raises(ValueError, match="Clouds know their own lengths"):
            to_pointclouds(Clouds(normal(2, 5, 3)), torch.tensor([5, 5]))
        with pytest.raises(ValueError, match="cloud 1 of pointclouds must own 1 to 4 points, but owns 0"):
            from_pointclouds(Pointclouds([normal(4, 3), normal(0, 3)]))
        with pytest.raises(ValueError, match="at least one cloud is needed, got none"):
            from_pointclouds(Pointclouds([]))


# The stand-in sums squares of float32 differences, ours too, in another order: a few roundings of 6e-8.
FLOAT32 = {"rtol": 1e-6, "atol": 0.0}


def test_both_chamfer_distances_are_one_definition(stand_in):
    (x, lengths_x), (y, lengths_y) = padded(ragged()), padded([normal(n, 3, seed=20 + n).float() for n in (7, 2, 5)])
    expected = chamfer_distance(x, y, lengths_x, lengths_y)
    assert not stand_in  # "auto" does not take it
    found = chamfer_distance(x, y, lengths_x, lengths_y, backend="pytorch3d")
    assert len(stand_in) == 1
    torch.testing.assert_close(found, expected, **FLOAT32)


def test_all_pairs_of_mixed_clouds_agree_and_each_is_computed_once(stand_in, monkeypatch):
    left, right = ragged(), [normal(n, 3, seed=20 + n).float() for n in (7, 2)]
    (a, lengths_a), (b, lengths_b) = padded(left), padded(right)
    monkeypatch.setattr("mfcdm.metrics.all_pairs.MAX_QUERIES", 10)  # blocks of one or two clouds
    seen = []
    options = {"backend": "pytorch3d", "progress": lambda *count: seen.append(count)}
    found = pairwise(a, b, lengths_a=lengths_a, lengths_b=lengths_b, **options)
    torch.testing.assert_close(found, pairwise(a, b, lengths_a=lengths_a, lengths_b=lengths_b), **FLOAT32)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    stand_in.clear()
    within = pairwise(a, a, lengths_a=lengths_a, lengths_b=lengths_a, backend="pytorch3d")
    torch.testing.assert_close(within, pairwise(a, a, lengths_a=lengths_a, lengths_b=lengths_a), **FLOAT32)
    assert sum(len(call["y_lengths"]) for call in stand_in) == 6  # three pairs, and three clouds with themselves
    assert pairwise(a, a[:0], backend="pytorch3d", lengths_a=lengths_a).shape == (3, 0)


def test_the_gradient_is_ours(stand_in):
    grads = []
    for backend in ("auto", "pytorch3d"):
        x = normal(1, 6, 3).float().requires_grad_()
        chamfer_distance(x, normal(1, 5, 3, seed=1).float(), backend=backend).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-6)  # sums of a few float32 terms of order 1
    assert chamfer_distance(torch.zeros(0, 4, 3), torch.zeros(0, 5, 3), backend="pytorch3d").shape == (0,)


def test_what_it_cannot_do_is_refused(stand_in):
    x = normal(2, 5, 3)
    with pytest.raises(ValueError, match="float32 on the CPU, but these clouds are float64"):
        chamfer_distance(x, x, backend="pytorch3d")
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'pytorch3d', but is 'cuda'"):
        chamfer_distance(x, x, backend="cuda")
    with pytest.raises(ValueError, match="backend='pytorch3d' computes 'cd' alone, but the metric is 'emd'"):
        pairwise(x, x, "emd", backend="pytorch3d")
    with pytest.raises(ValueError, match="equally many clouds, but hold 2 and 1"):
        chamfer_distance(x.float(), x[:1].float(), backend="pytorch3d")
    assert not stand_in


@pytest.mark.usefixtures("absent")
def test_asked_for_and_missing_is_one_sentence():
    x = normal(1, 4, 3).float()
    for work in (to_pointclouds, lambda x: chamfer_distance(x, x, backend="pytorch3d")):
        with pytest.raises(PyTorch3DMissing, match=r"PyTorch3D was asked for and cannot be imported \(.*leave it out"):
            work(x)
    assert float(chamfer_distance(x, x)) == 0  # nobody else misses it


class TestTheRealOne:
    """Where PyTorch3D is installed."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("pytorch3d.loss", reason="PyTorch3D is not installed")

    @pytest.fixture(params=["cpu", "cuda"])
    def device(self, request):
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return request.param

    def test_its_chamfer_distance_is_ours(self, device):
        (x, lengths_x), (y, lengths_y) = padded(ragged()), padded([normal(n, 3, seed=n).float() for n in (70, 2, 50)])
        expected = chamfer_distance(x, y, lengths_x, lengths_y)
        x, y = x.to(device), y.to(device)
        found = chamfer_distance(x, y, lengths_x, lengths_y, backend="pytorch3d")
        torch.testing.assert_close(found.cpu(), expected, **FLOAT32)
        within = pairwise(y, y, lengths_a=lengths_y, lengths_b=lengths_y, backend="pytorch3d")
        torch.testing.assert_close(within, pairwise(y, y, lengths_a=lengths_y, lengths_b=lengths_y), **FLOAT32)

    def test_clouds_go_there_and_back(self, device):
        x, lengths = padded(ragged())
        clouds = to_pointclouds(x.to(device), lengths)
        assert clouds.num_points_per_cloud().tolist() == lengths.tolist()
        back = from_pointclouds(clouds)
        assert all(torch.equal(one.cpu(), other) for one, other in zip(back.points(), ragged(), strict=True))
