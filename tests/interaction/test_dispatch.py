import pytest
import torch

from mfcdm.interaction import BackendUnavailable, BallGeometry, available_backends, ball_convolution, dispatch
from tests.interaction.interaction_problems import random_problem

X, V, BANDWIDTH = torch.zeros(2, 5, 3), torch.zeros(2, 4, 5, 6), torch.ones(4)
INT, Y = torch.tensor([1, 5]), torch.zeros(2, 7, 3)

# Where there is a GPU "triton" is available too, but takes no tensors on the CPU and no float64.
ON_THE_CPU = [name for name in available_backends() if name != "triton"]

REFUSALS = [
    ({"x": torch.zeros(5, 3)}, r"x must be \(B, N, D\) with D >= 1, but has shape \(5, 3\)"),
    ({"x": torch.zeros(2, 5, 0)}, r"x must be .* has shape \(2, 5, 0\)"),
    ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, "x must have a floating-point dtype, but has torch.int64"),
    ({"x": [[[0.0]]]}, "x must be a tensor, but is a list"),
    ({"y": torch.zeros(2, 5)}, r"y must be \(B, N, D\)"),
    ({"y": torch.zeros(3, 5, 3)}, r"y must have the B and D of x.*\(3, 5, 3\)"),
    ({"y": torch.zeros(2, 5, 2)}, r"y must have the B and D of x.*\(2, 5, 2\)"),
    ({"y": torch.zeros(2, 5, 3, device="meta")}, "y must be on the device of x, cpu, but is on meta"),
    ({"v": torch.zeros(2, 5, 6)}, r"v must be \(B, H, M, C\).*\(2, 5, 6\)"),
    ({"v": torch.zeros(3, 4, 5, 6)}, r"v must be .* B = 2 clouds.*\(3, 4, 5, 6\)"),
    ({"v": torch.zeros(2, 4, 6, 6)}, r"v must be .* M = 5 sources.*\(2, 4, 6, 6\)"),
    ({"y": Y}, r"v must be .* M = 7 sources.*\(2, 4, 5, 6\)"),
    ({"v": V.long()}, "v must have a floating-point dtype, but has torch.int64"),
    ({"v": V.to("meta")}, "v must be on the device of x"),
    ({"bandwidth": torch.ones(3)}, r"bandwidth must be \(H,\) = \(4,\).*\(3,\)"),
    ({"bandwidth": torch.ones(4, 1)}, r"bandwidth must be \(H,\)"),
    ({"bandwidth": torch.ones(4).long()}, "bandwidth must have a floating-point dtype"),
    ({"bandwidth": torch.tensor([1.0, 0.0, 1.0, 1.0])}, "bandwidth must be finite and above 0"),
    ({"bandwidth": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, "bandwidth must be finite and above 0"),
    ({"radius": 0.0}, "radius must be finite and above 0, but is 0.0"),
    ({"radius": -1.0}, "radius must be finite and above 0, but is -1.0"),
    ({"radius": float("inf")}, "radius must be finite and above 0, but is inf"),
    ({"radius": float("nan")}, "radius must be finite and above 0, but is nan"),
    ({"radius": 1e-42}, "radius must lie in .* for torch.float32, but is 1e-42"),
    ({"radius": "1"}, "radius must be a number, but is '1'"),
    ({"lengths": torch.tensor([6, 1])}, r"lengths must lie in \[0, 5\], .* but is \[6, 1\]"),
    ({"lengths": torch.tensor([-1, 1])}, r"lengths must lie in \[0, 5\]"),
    ({"lengths": torch.tensor([1, 1, 1])}, r"lengths must be \(B,\) = \(2,\)"),
    ({"lengths": torch.tensor([1.0, 1.0])}, "lengths must be an int64 tensor, but is torch.float32"),
    ({"lengths": [1, 2]}, "lengths must be an int64 tensor, but is list"),
    ({"source_lengths": INT}, "source_lengths needs y"),
    ({"y": X, "source_lengths": torch.tensor([9, 1])}, r"source_lengths must lie in \[0, 5\]"),
    ({"normalize": "sum"}, "normalize must be one of 'mean', 'kernel', but is 'sum'"),
    ({"backend": "cuda"}, "backend must be 'auto' or one of 'reference', .*, but is 'cuda'"),
    ({"geometry": BallGeometry.build(X, 2.0)}, "radius is 1.0, but the geometry was built for radius 2.0"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_a_refusal_names_the_value_and_what_fits(change, message):
    arguments = {"x": X, "v": V, "bandwidth": BANDWIDTH, "radius": 1.0}
    ball_convolution(**arguments)
    with pytest.raises(ValueError, match=message) as refusal:
        ball_convolution(**{**arguments, **change})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["native", "triton"])
def test_a_backend_that_cannot_run_says_which_can(name):
    if name in available_backends():
        pytest.skip(f"{name} runs here")
    with pytest.raises(BackendUnavailable, match=f"'{name}' cannot run here; available are ref") as refusal:
        ball_convolution(X, V, BANDWIDTH, radius=1.0, backend=name)
    assert isinstance(refusal.value, RuntimeError)


@pytest.mark.parametrize("name", ON_THE_CPU)
@pytest.mark.parametrize("normalize", ["mean", "kernel"])
@pytest.mark.parametrize("num_sources", [None, 40])
def test_all_backends_agree_on_a_shared_geometry(name, normalize, num_sources):
    problem = random_problem(0, 50, num_sources, padded=True)
    arguments = (problem.x, problem.v, problem.bandwidth)
    geometry = BallGeometry.build(problem.x, problem.radius, problem.lengths, problem.y, problem.source_lengths)
    expected = ball_convolution(*arguments, **problem.keywords, normalize=normalize, backend="reference")
    out = ball_convolution(*arguments, **problem.keywords, normalize=normalize, backend=name, geometry=geometry)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)  # float64 means of 50 numbers of order 1


def test_auto_takes_the_reference_for_few_pairs_and_keeps_float64(monkeypatch):
    taken = []
    for name in available_backends():
        backend = dispatch._BACKENDS[name]
        monkeypatch.setitem(
            dispatch._BACKENDS, name, lambda *a, _name=name, _run=backend, **k: taken.append(_name) or _run(*a, **k)
        )
    few, many = random_problem(0, 30), random_problem(0, 400)
    for problem in (few, many):
        out = ball_convolution(problem.x, problem.v, problem.bandwidth, **problem.keywords)
        assert out.dtype == torch.float64
    assert taken[0] == "reference"
    assert taken[1] != "reference"


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_autocast_does_not_lower_the_precision(name):
    problem = random_problem(0, 64, dtype=torch.float32)
    v = problem.v.clone().requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = ball_convolution(problem.x, v, problem.bandwidth, radius=1.0, backend=name)
        results.append((out, *torch.autograd.grad(out.square().sum(), v)))
    assert all(torch.equal(wide, cast) for wide, cast in zip(*results, strict=True))


@pytest.mark.parametrize("name", ON_THE_CPU)
@pytest.mark.parametrize(("num_clouds", "num_queries", "num_sources"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_is_a_cloud_too(name, num_clouds, num_queries, num_sources):
    x, y = torch.ones(num_clouds, num_queries, 3), torch.ones(num_clouds, num_sources, 3)
    v = torch.ones(num_clouds, 2, num_sources, 5, requires_grad=True)
    for normalize in ("mean", "kernel"):
        out = ball_convolution(x, v, torch.ones(2), radius=1.0, y=y, normalize=normalize, backend=name)
        assert torch.equal(out, torch.zeros(num_clouds, 2, num_queries, 5))
        (gradient,) = torch.autograd.grad(out.sum(), v)
        assert torch.equal(gradient, torch.zeros_like(v))
