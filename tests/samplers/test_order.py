"""Orders of convergence, fitted. On a Gaussian law the first two are free of Monte-Carlo error."""

import math
from dataclasses import replace

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from mfcdm.analytic import GaussianMixture
from mfcdm.samplers import (
    DPMSolver,
    Geometric,
    Langevin,
    LinearNoise,
    PredictorCorrector,
    ProbabilityFlow,
    UnderdampedLangevin,
)
from mfcdm.samplers.base import System
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import generator

T_END = 0.02


def fitted_order(steps: list[int], errors: list[float]) -> float:
    """Slope of log error against log step length."""
    log_h = -torch.tensor(steps, dtype=torch.float64).log()
    log_error = torch.tensor(errors, dtype=torch.float64).abs().log()
    centred = log_h - log_h.mean()
    return float((centred @ log_error) / (centred @ centred))


class OrthogonalNoise(System):
    """Makes the n-th noise the n-th unit vector, so that a linear sampler returns the coefficients of its noises."""

    count = 0

    def noise_like(self, x):
        OrthogonalNoise.count += 1
        noise = torch.zeros_like(x)
        noise[:, OrthogonalNoise.count] = 1
        return noise


def exact_variance(sampler, sde, std: float, monkeypatch, t_end: float = T_END) -> float:
    """Variance at t_end of a linear sampler on N(0, std^2): the sum of squares of its coefficients."""
    OrthogonalNoise.count = 0
    monkeypatch.setattr("mfcdm.samplers.base.System", OrthogonalNoise)
    x_1 = torch.zeros(1, 3 * sampler.num_steps + 2, 1, dtype=torch.float64)
    start = torch.tensor(1.0, dtype=torch.float64)
    # the coefficient of x_1 itself; its variance is that of the law at t = 1
    x_1[0, 0] = ((sde.alpha(start) * std) ** 2 + sde.sigma(start) ** 2).sqrt()
    law = GaussianMixture([[0.0]], std)
    x = sampler.sample(law.as_score(sde), sde, x_1, t_end=t_end)
    return float(x.square().sum())


def true_variance(sde, std: float, t_end: float) -> float:
    t = torch.tensor(t_end, dtype=torch.float64)
    return float((sde.alpha(t) * std) ** 2 + sde.sigma(t) ** 2)


ORDERS = [
    (Langevin(), 0.8),
    (Langevin(noise_schedule="sigma"), 0.8),
    (UnderdampedLangevin(), 0.8),
    (PredictorCorrector(), 0.8),
    (ProbabilityFlow(method="euler"), 0.8),
    (ProbabilityFlow(method="heun"), 1.8),
    (DPMSolver(), 1.8),
]


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=repr)
@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=lambda value: getattr(value, "method", type(value).__name__))
def test_the_variance_converges_at_the_stated_order(sde, sampler, order, monkeypatch):
    """On grids of 64 to 512 steps, even in log-SNR."""
    std, steps = 0.3, [64, 128, 256, 512]
    truth = true_variance(sde, std, T_END)
    errors = [exact_variance(sampler.with_steps(n), sde, std, monkeypatch) - truth for n in steps]
    assert fitted_order(steps, errors) > order


@pytest.mark.parametrize("grid", ["time", "power"])
@pytest.mark.parametrize(
    ("sampler", "order"), [(Langevin(), 0.8), (ProbabilityFlow(), 1.8), (DPMSolver(), 1.8)], ids=str
)
def test_uneven_grids_keep_the_order(sampler, order, grid, monkeypatch):
    """On grids of 256 to 1,024 steps: the last steps of "time" are long, and with fewer the law is not yet resolved."""
    std, steps, sde = 0.3, [256, 512, 1024], CosineVPSDE()
    truth, sampler = true_variance(sde, std, T_END), replace(sampler, grid=grid)
    errors = [exact_variance(sampler.with_steps(n), sde, std, monkeypatch) - truth for n in steps]
    assert fitted_order(steps, errors) > order


def test_corrections_with_velocities_leave_next_to_no_error(monkeypatch):
    """BAOAB has no bias of its own on a Gaussian, so that no order is left to be fitted: 0.1 % from 64 steps on."""
    sde = CosineVPSDE()
    truth = true_variance(sde, 0.3, T_END)
    for num_steps in (64, 256):
        sampler = PredictorCorrector(num_steps, corrector="underdamped")
        assert exact_variance(sampler, sde, 0.3, monkeypatch) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("t_end", [0.7, 0.4, 0.1])
@pytest.mark.parametrize(
    "sampler", [sampler for sampler, _ in ORDERS] + [PredictorCorrector(corrector="underdamped")], ids=str
)
def test_the_variance_is_right_on_the_way(sampler, t_end, monkeypatch):
    """200 steps; the slowest, Euler's and full noise, are first order: 1 % of the standard deviation leaves room."""
    sde = CosineVPSDE()
    variance = exact_variance(sampler.with_steps(200), sde, 0.3, monkeypatch, t_end)
    assert math.sqrt(variance / true_variance(sde, 0.3, t_end)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("grid", ["time", "power"])
@pytest.mark.parametrize("noise", [3.0, 10.0])
def test_strong_noise_keeps_the_temperature_where_steps_grow(noise, grid, monkeypatch):
    """The noise step extrapolates by its own rule: by that of the flow 100 steps of t leave 27 % and 35 % too much."""
    sde = CosineVPSDE()
    variance = exact_variance(Langevin(100, noise, grid=grid), sde, 0.3, monkeypatch, sde.t_min)
    even = exact_variance(Langevin(100, noise), sde, 0.3, monkeypatch, sde.t_min)
    deviation, reference = (abs(math.sqrt(v / true_variance(sde, 0.3, sde.t_min)) - 1) for v in (variance, even))
    # an even grid's own error of the first order, 1.4 % and 2.8 %; steps that are twice as long in places double it
    assert deviation < 2 * reference


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_the_mean_under_multiplicative_noise_converges(sampler):
    """N(1, 0.3^2), 300,000 points: the Monte-Carlo error 0.0018 lies below the bias at every point of the grid."""
    law, sde, steps, n = GaussianMixture([[1.0]], 0.3), CosineVPSDE(), [8, 16, 32], 300_000
    t = torch.tensor(T_END, dtype=torch.float64)
    mean, std = float(sde.alpha(t)), float(((sde.alpha(t) * 0.3) ** 2 + sde.sigma(t) ** 2).sqrt())
    errors = []
    for num_steps in steps:
        g = generator(num_steps)
        x = sampler(num_steps=num_steps).sample(law.as_score(sde), sde, sde.prior_sample((1, n, 1), g), t_end=T_END,
                                                generator=g)  # fmt: skip
        errors.append((float(x.double().mean()) - mean) / std)
    assert abs(errors[-1]) < 0.5 * abs(errors[0])
    assert min(abs(e) for e in errors) > 3 / math.sqrt(n)


@pytest.mark.parametrize("form", ["coordinate", "isotropic"])
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_samplers_of_multiplicative_noise_have_weak_order_one(sampler, form):
    """E |x|^2 of whole runs on N(m, I / 4), |m| = 1, from log-SNR -4 to 2, in 6, 12 and 24 steps.

    The exact law is drawn at the start. The Monte-Carlo error of 200,000 numbers is a quarter of every bias at most.
    """
    sde, dim, std, steps, errors = CosineVPSDE(), (1 if form == "coordinate" else 3), 0.5, [6, 12, 24], []
    start, end = sde.time_of_log_snr(torch.tensor([-4.0, 2.0], dtype=torch.float64)).tolist()
    mean = torch.eye(dim, dtype=torch.float64)[:1]
    law, alpha = GaussianMixture(mean, std), float(sde.alpha(torch.tensor(end)))
    for num_steps in steps:
        g = generator(num_steps)
        x = law.sample(1, 200_000 // dim, g)
        centre, spread = sde.marginal(x, torch.tensor([start]))
        x = centre + spread[:, None, None] * torch.randn(x.shape, generator=g)
        method = sampler(num_steps=num_steps, form=form)
        x = method.sample(law.as_score(sde), sde, x, t_start=start, t_end=end, generator=g)
        square = x.double().square().sum(dim=-1)
        errors.append(float(square.mean()) - alpha**2 - dim * true_variance(sde, std, end))
        assert abs(errors[-1]) > 4 * float(square.std()) / math.sqrt(square.numel())
    assert fitted_order(steps, errors) > 0.8


class Nodes(System):
    """Gives the nodes of a quadrature in place of draws, one set of them a call."""

    def noise_like(self, x):
        self.last["calls"] = self.last.get("calls", 0) + 1
        return self.score[self.last["calls"] - 1]


def gauss_hermite(num_nodes, dim=1):
    """Nodes (num_nodes^dim, dim) and weights of an expectation over N(0, I), exact up to degree 2 num_nodes - 1."""
    nodes, weights = (torch.from_numpy(v) for v in hermegauss(num_nodes))
    axes, factors = torch.meshgrid(*[nodes] * dim, indexing="ij"), torch.meshgrid(*[weights] * dim, indexing="ij")
    product = torch.stack(factors).prod(dim=0).flatten()
    return torch.stack(axes, dim=-1).reshape(-1, dim), product / product.sum()


@pytest.mark.parametrize("mean", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_substeps_of_multiplicative_noise_have_weak_order_two(sampler, mean):
    """What a substep of gamma = 1/128 to 1/512 changes in E x and E x^2 of its own N(m, 1), by quadrature."""
    nodes, weights = gauss_hermite(80)
    start = (mean + nodes).expand(80, 80)[None]  # (1, 80 starts, 80 noises)
    weight, one, defects = weights[:, None] * weights, torch.ones((), dtype=torch.float64), []
    substeps = [128, 256, 512]
    for n in substeps:
        system = Nodes([nodes[:, 0].expand(80, 80)[None]], None, None, None)
        x = sampler().multiply(start, torch.full_like(start, mean), 1.0, 1 / n, one, system)
        defects.append([float(((x**k - start**k) * weight).sum()) for k in (1, 2)])
    for local in zip(*defects, strict=True):  # a local error of order three
        assert fitted_order(substeps, local) > 2.8


@pytest.mark.parametrize("factor", [1.0, 2 / 3])
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_isotropic_noise_has_the_moments_of_its_brownian_motion(sampler, factor):
    """dy = div y dv + |y| dB in R^3: E y, and M = E y y^T with dM = 2 div M dv + tr M I dv, by quadrature.

    The length of a geometric step has its exact law; its direction, and the Taylor scheme, have a local error of order
    three in v.
    """
    y = torch.tensor([0.6, -0.3, 0.2], dtype=torch.float64)
    (xi, weights), (zeta, others) = gauss_hermite(12, 3), gauss_hermite(3, 3)
    weight, eye = (weights[:, None] * others).flatten(), torch.eye(3, dtype=torch.float64)
    noises = [xi.repeat_interleave(len(others), dim=0)[None], zeta.repeat(len(weights), 1)[None]]
    inverses, errors, square, div = [16, 32, 64], [], float(y @ y), torch.tensor(factor, dtype=torch.float64)
    for inverse in inverses:
        v, system = torch.tensor(1 / inverse, dtype=torch.float64), Nodes(noises, None, None, None)
        moved = sampler(form="isotropic").multiplied(y.expand_as(noises[0]), v, div, system)[0]
        second = moved.T @ (weight[:, None] * moved)
        traceless = (2 * factor * v).exp() * (torch.outer(y, y) - square / 3 * eye)
        exact = traceless + ((2 * factor + 3) * v).exp() * square / 3 * eye
        errors.append([float((weight @ moved - (factor * v).exp() * y).norm()), float((second - exact).norm())])
        if sampler is Geometric:
            assert float(second.trace()) == pytest.approx(float(exact.trace()), rel=1e-9)
    for local in zip(*errors, strict=True):
        assert fitted_order(inverses, local) > 2.8


@pytest.mark.parametrize("gamma", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("form", ["coordinate", "isotropic"])
def test_the_drift_of_multiplicative_noise_overshoots_nothing(form, gamma):
    """From anywhere: straight towards the mean, not beyond it, and by coordinates not beyond the centre either."""
    m = torch.tensor([0.7, -0.2, 1.5], dtype=torch.float64).expand(1, 4096, 3)
    y = m + 30 * torch.randn(m.shape, generator=generator(0), dtype=torch.float64)
    moved = LinearNoise(form=form).drifted(y, m, gamma)
    left = (moved - m) / (y - m)
    assert bool(((left >= 0) & (left <= 1)).all())
    if form == "coordinate":
        assert torch.equal(moved.sign()[y * m < 0], y.sign()[y * m < 0])
    else:
        assert torch.allclose(left, left[..., :1].expand_as(left), rtol=1e-6)


def test_the_drift_of_multiplicative_noise_is_its_flow():
    """Against 4,096 small steps of dy = 1/2 y^2 (m - y) dgamma: a local error of order three on either side of m."""
    m, y = torch.ones(3, dtype=torch.float64), torch.tensor([-1.5, 0.4, 2.0], dtype=torch.float64)
    inverses, errors = [32, 64, 128], []
    for inverse in inverses:
        exact = y
        for _ in range(4096):
            half = exact + exact**2 * (m - exact) / (4 * 4096 * inverse)
            exact = exact + half**2 * (m - half) / (2 * 4096 * inverse)
        errors.append(LinearNoise().drifted(y, m, 1 / inverse) - exact)
    for local in torch.stack(errors, dim=1).tolist():
        assert fitted_order(inverses, local) > 2.8


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_the_noise_step_leaves_its_gaussian_in_place_only_with_div_d(sampler):
    """Repeated noise steps against a fixed N(1, 1), restricted to the signs that it started with."""
    g, n = generator(0), 200_000
    system = System(lambda x, t, lengths=None: x, g, None, None)
    x = 1 + torch.randn(1, n, 1, generator=g, dtype=torch.float64)
    mean, kept, wrong = torch.ones_like(x), x, x
    one = torch.ones((), dtype=torch.float64)
    gamma = 1 / 32
    for _ in range(round(2 / gamma)):
        kept = sampler().multiply(kept, mean, 1.0, gamma, one, system)
        wrong = sampler().multiply(wrong, mean, 1.0, gamma, 0 * one, system)
    # the bias of a substep is below 0.01 of sigma here; 4 standard errors of 200,000 draws are 0.009
    assert abs(float(kept.mean()) - 1) < 0.02
    assert abs(float(kept.std()) - 1) < 0.02
    assert float(wrong.mean()) < 0.8, "without div D the mass falls towards the centre"


@pytest.mark.parametrize("t_end", [0.6, 0.3, 0.1])
@pytest.mark.parametrize(
    "sampler",
    [
        Langevin(),
        LinearNoise(),
        LinearNoise(form="isotropic"),
        Geometric(),
        Geometric(noise_schedule="sigma"),
        Langevin(noise_schedule="constant", noise_until=0.2),
        ProbabilityFlow(),
        DPMSolver(),
        UnderdampedLangevin(),
        UnderdampedLangevin(friction=0.3),
        PredictorCorrector(),
        PredictorCorrector(predictor="geometric", corrector="underdamped", num_corrections=2),
    ],
    ids=str,
)
def test_the_marginals_on_the_way_are_kept(sampler, t_end):
    law, sde, n = GaussianMixture([[0.7], [-0.4]], 0.2, [2.0, 1.0]), CosineVPSDE(), 20_000
    g = generator(1)
    x_1 = sde.prior_sample((1, n, 1), g)
    x = sampler.with_steps(200).sample(law.as_score(sde), sde, x_1, t_end=t_end, generator=g)
    t = torch.tensor([t_end], dtype=torch.float64)
    mean, std = sde.marginal(law.sample(1, n, generator(2), dtype=torch.float64), t)
    fresh = mean + std * torch.randn(mean.shape, generator=generator(3), dtype=torch.float64)
    gap = (x.double().flatten().sort().values - fresh.flatten().sort().values).abs().mean()
    # two samples of n points of spread <= 1 differ by about 0.8 / sqrt(n) = 0.006
    assert float(gap) < 0.025
