import math

import pytest
import torch

from mfcdm.networks import ScoreNetwork
from mfcdm.networks.local import DENSITY_FLOOR, LocalGaussian, LocalInteraction, solve_positive
from mfcdm.networks.neighbourhood import Neighbourhood
from tests.laws import generator

SCALES = 3


def cloud(num_clouds, num_particles, dim=3, seed=0):
    return torch.randn(num_clouds, num_particles, dim, generator=generator(seed), dtype=torch.float64)


def whole(x, lengths=None, max_sources=10**9, backend="reference"):
    return Neighbourhood.build(x, lengths, max_sources, backend)


def local_gaussian(dim=3) -> LocalGaussian:
    torch.manual_seed(0)
    layer = LocalGaussian(8, dim, SCALES).double()
    torch.nn.init.normal_(layer.log_noise.weight, std=0.3)
    return layer


def weights(x, bandwidth):
    """w(|x_i - x_j|) / N by the definition, (N, N)."""
    r2 = (x[:, None] - x[None]).square().sum(-1)
    return (-r2 / (2 * bandwidth**2)).exp() * (1 - r2).clamp_min(0) ** 2 / len(x)


def fit_by_definition(x, bandwidth, noise):
    """log rho, d / b and p of every particle of one cloud x (N, D), from differences and LAPACK."""
    features = []
    for i, w in enumerate(weights(x, bandwidth)):
        rho = w.sum() + DENSITY_FLOOR
        difference = x - x[i]
        d = (w[:, None] * difference).sum(0) / rho
        covariance = torch.einsum("j,ja,jb->ab", w, difference, difference) / rho - torch.outer(d, d)
        p = noise.sqrt() * torch.linalg.solve(covariance + noise * torch.eye(len(d)).double(), d)
        features.append(torch.cat((rho.log()[None], d / bandwidth, p)))
    return torch.stack(features)


@pytest.mark.parametrize("num_particles", [1, 17, 129])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_gaussian_fit_is_its_definition(dim, num_particles):
    layer, x = local_gaussian(dim), 0.3 * cloud(2, num_particles, dim)
    condition = torch.randn(2, 8, generator=generator(1), dtype=torch.float64)
    features, vectors = layer(whole(x), condition)
    noise, bandwidth = layer.noise(condition), layer.bandwidth
    size = 1 + 2 * dim
    for b in range(2):
        for h in range(SCALES):
            wanted = fit_by_definition(x[b], bandwidth[h], noise[b, h])
            # second moments are taken about the origin and moved to x_i: a few roundings of |x|^2 over c >= 1e-3
            assert torch.allclose(features[b, :, h * size : (h + 1) * size], wanted, rtol=1e-9, atol=1e-11)
            assert torch.allclose(vectors[b, :, 2 * h : 2 * h + 2].flatten(1), wanted[:, 1:], rtol=1e-9, atol=1e-11)


def test_it_is_the_score_of_a_gaussian_at_every_bandwidth():
    """Near every point a Gaussian cloud is that Gaussian: C^-1 d = -Sigma^-1 x."""
    spread = torch.tensor([0.12, 0.2, 0.3]).double()
    x = spread * cloud(1, 40_000)
    asked = torch.cat((0.8 * spread * cloud(1, 50, seed=1), x), dim=1)  # the queries are a small part of the cloud
    layer = LocalGaussian(8, 3, SCALES).double()
    for h, bandwidth in enumerate((0.1, 0.15, 0.2)):
        layer.bandwidth[h] = bandwidth
    neighbours = whole(asked, backend="auto")
    with torch.no_grad():
        density, offset, covariance = layer._moments(neighbours, layer.bandwidth)
    # without the floor on the density, which is there for sparse places
    mass = density - DENSITY_FLOOR
    correction = {(i, j): offset[..., i] * offset[..., j] for i, j in covariance}
    covariance = {
        (i, j): (covariance[i, j] + correction[i, j]) * (density / mass)[..., 0]
        - correction[i, j] * (density / mass)[..., 0] ** 2
        for i, j in covariance
    }
    score = solve_positive(covariance, (offset * density / mass).unbind(-1), torch.full_like(mass[..., 0], 1e-12))
    exact = -asked / spread**2
    for h in range(SCALES):
        error = (score[:, h, :50] - exact[:, :50]) * spread  # in units of 1 / standard deviation
        # 40,000 points have 200 and more in every ball: the mean is known to 1 / sqrt(200) of the bandwidth, 0.07 to
        # 0.2 of a unit; leaving out C^-1 (d / b^2 in its place) is off by the size of the score, 0.8
        assert float(error.square().mean().sqrt()) < 0.25


def test_what_lies_along_a_surface_is_dropped():
    """On a noisy plane of uneven density the offset leans to the denser side, p points across."""
    flat = cloud(1, 4000)
    flat[..., 0] = flat[..., 0].abs() - 1.0  # an edge, and a density that falls away from it
    flat[..., 2] *= 0.05
    layer = local_gaussian()
    with torch.no_grad():
        layer.log_noise.weight.zero_()
        layer.log_noise.bias.fill_(2 * math.log(0.05))
    _, vectors = layer(whole(flat, backend="auto"), torch.zeros(1, 8).double())
    offset, across = vectors[0, :, 0::2], vectors[0, :, 1::2]
    for h in range(SCALES):
        leaning = offset[:, h, :2].norm(dim=-1).mean() / offset[:, h, 2].abs().mean()
        kept = across[:, h, :2].norm(dim=-1).mean() / across[:, h, 2].abs().mean()
        # along the plane C is about b^2, across it 0.05^2: the ratio falls by (c + 0.05^2) / (c + b^2), b >= 1/8
        assert kept < 0.5 * leaning


def test_it_moves_and_turns_with_the_cloud():
    layer, x, condition = local_gaussian(), 0.3 * cloud(1, 60), torch.zeros(1, 8).double()
    turn, _ = torch.linalg.qr(cloud(1, 3)[0])
    _, vectors = layer(whole(x), condition)
    _, moved = layer(whole(x @ turn.T + 1.5), condition)
    assert torch.allclose(moved, vectors @ turn.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_small_systems_are_solved(size):
    root = torch.randn(50, size, max(1, size - 1), generator=generator(0), dtype=torch.float64)
    matrix = root @ root.transpose(-1, -2)  # of rank size - 1: without the shift there is no solution
    vector, shift = cloud(1, 50, size)[0], torch.full((50,), 0.01, dtype=torch.float64)
    entries = {(i, j): matrix[:, i, j] for i in range(size) for j in range(i, size)}
    wanted = torch.linalg.solve(matrix + 0.01 * torch.eye(size).double(), vector)
    assert torch.allclose(solve_positive(entries, vector.unbind(-1), shift), wanted, rtol=1e-9, atol=1e-9)


def test_single_precision_is_enough_for_normalised_data():
    """Ten radii from the origin the second moments have lost 100 roundings, 6e-6, of c >= 1e-3."""
    layer, x, condition = local_gaussian(), 0.3 * cloud(1, 200) + 5.0, torch.zeros(1, 8).double()
    exact = layer(whole(x), condition)[1].detach()
    single = layer.float()(whole(x.float()), condition.float())[1].detach()
    assert float((single - exact).norm() / exact.norm()) < 0.02


def test_half_precision_rounds_the_fit_once_at_its_end():
    """Particles that bfloat16 holds exactly: their moments about a far origin would lose all digits in it."""
    layer = local_gaussian().float()
    x = (cloud(1, 257) / 8 + 1).bfloat16().float()
    condition = torch.ones(1, 8)
    features, vectors = layer(whole(x), condition)
    for found, expected in zip(layer(whole(x.bfloat16()), condition), (features, vectors), strict=True):
        assert found.dtype == torch.bfloat16
        rounding = torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(found.float(), expected, rtol=2 * rounding, atol=2 * rounding)


def test_rounding_cannot_blow_up_the_fit():
    """Thousands of radii from the origin, second moments of float32 have lost all their digits."""
    layer, condition = local_gaussian().float(), torch.zeros(1, 8)
    _, vectors = layer(whole(0.3 * cloud(1, 200).float() + 3000.0), condition)
    offset = (vectors[..., 0::2, :] * layer.bandwidth[:, None]).norm(dim=-1)
    c = layer.noise(condition)[:, None]
    # |sqrt(c) (C + c I)^-1 d| <= |d| / sqrt(c) for every C that could be, with some roundings
    assert bool((vectors[..., 1::2, :].norm(dim=-1) <= 1.001 * offset / c.sqrt()).all())


def test_learned_scales_are_exponentials_where_they_begin():
    """c and b move as exp of their weights do: slope 1 at the start, and 2 % less after a change of e^3."""
    for change in (1e-4, 3.0):
        fit, convolution = local_gaussian(), LocalInteraction(8, SCALES, 2).double()
        start, at_start = torch.zeros(1, 8).double(), convolution.bandwidth().detach()
        noise = fit.noise(start).detach()
        with torch.no_grad():
            fit.log_noise.bias += change
            convolution.log_bandwidth += change
        for grown in (fit.noise(start) / noise, convolution.bandwidth() / at_start):
            # tanh(x) = x - x^3 / 3 + ..., x = change / 12; 1e-7 is what float32 leaves of the start
            assert bool(((grown.log() / change - 1).abs() < (change / 12) ** 2 / 3 + 1e-7 / change).all())


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_no_weights_make_the_layers_overflow(sign):
    """Far beyond where float32's exponential is 0 or infinite, outputs and gradients are finite."""
    fit, convolution = local_gaussian().float(), LocalInteraction(8, SCALES, 2)
    with torch.no_grad():
        fit.log_noise.bias += sign * 1e4
        convolution.log_bandwidth += sign * 1e4
    x, condition = (0.3 * cloud(2, 40)).float().requires_grad_(), torch.zeros(2, 8)
    neighbours = whole(x)
    out = [*fit(neighbours, condition), convolution(torch.ones(2, 40, 8), neighbours)]
    sum(y.square().sum() for y in out).backward()
    parameters = [p for layer in (fit, convolution) for p in layer.parameters()]
    assert all(bool(y.isfinite().all()) for y in [*out, x.grad, *(p.grad for p in parameters)])


def test_the_convolution_is_its_definition():
    torch.manual_seed(0)
    layer, x = LocalInteraction(8, SCALES, 2).double(), 0.3 * cloud(1, 33)
    h = torch.randn(1, 33, 8, generator=generator(1), dtype=torch.float64)
    averages = []
    for scale, bandwidth in enumerate(layer.bandwidth()):
        w = weights(x[0], bandwidth)
        v = layer.value(h)[0, :, 2 * scale : 2 * scale + 2]
        averages.append(w @ v / (w.sum(1, keepdim=True) + DENSITY_FLOOR))
    wanted = layer.out(torch.cat(averages, dim=-1))[None]
    assert torch.allclose(layer(h, whole(x)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_subset_of_sources_is_taken_in_strides_of_each_cloud(backend):
    x, lengths = cloud(3, 50), torch.tensor([50, 21, 8])
    padded = torch.where(torch.arange(50)[None, :, None] < lengths[:, None, None], x, 0)
    v = torch.randn(3, 2, 50, 4, generator=generator(1), dtype=torch.float64)
    bandwidth = torch.tensor([0.3, 0.6]).double()
    average = whole(padded, lengths, 10, backend).average(v, bandwidth)
    for b, n in enumerate(lengths.tolist()):
        rows = [k * n // 10 for k in range(10)] if n > 10 else list(range(n))
        assert len(set(rows)) == min(n, 10)
        r2 = (x[b, :n, None] - x[b, None, rows]).square().sum(-1)
        for h in range(2):
            w = (-r2 / (2 * bandwidth[h] ** 2)).exp() * (1 - r2).clamp_min(0) ** 2
            assert torch.allclose(average[b, h, :n], w @ v[b, h, rows] / len(rows), rtol=0, atol=1e-12)


def test_few_clouds_are_not_thinned():
    x = cloud(2, 30)
    assert whole(x, None, 30).chosen is None
    assert whole(x, None, 29).chosen is not None


def test_a_subset_stands_for_all_sources():
    """The output with M sources differs from that with all by a standard error: it falls like M^(-1/2)."""
    torch.manual_seed(0)
    net = ScoreNetwork(width=16, depth=2, interactions=["local", "convolution"], max_sources=10**9).double()
    torch.nn.init.normal_(net.gates.weight, std=0.1)
    x, t, sizes, errors = 0.5 * cloud(4, 16384), torch.full((4,), 0.3).double(), (256, 1024, 4096), []
    with torch.no_grad():
        exact = net(x, t)
        for size in sizes:
            net.max_sources = size
            errors.append(float((net(x, t) - exact).square().mean().sqrt()))
    slope = math.log(errors[-1] / errors[0]) / math.log(sizes[-1] / sizes[0])
    # one of four of the particles at last, so the error there is sqrt(3/4) of a standard error: slope -0.55; the
    # averages are correlated within a ball, so that a cloud has about 50 independent ones: log error known to 0.1
    assert -0.75 < slope < -0.35, errors
