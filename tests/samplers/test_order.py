"""Orders of convergence, fitted. On a Gaussian law the first two are free of Monte-Carlo error."""

import math
from dataclasses import replace

import pytest
import torch

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
def test_multiplicative_noise_has_weak_order_one(sampler, form):
    """What a noise step of gamma = 1 in 2, 4 and 8 substeps changes in the mean and square of its own N(m, I), |m| = 1.

    400,000 numbers and differences from the start, whose Monte-Carlo errors, 0.0014 to 0.0034 and 0.005 to 0.013, lie
    below the biases, 0.011 and more and 0.12 and more. The order that substeps have, a step of the sampler has too.
    """
    dim, substeps, method = (1 if form == "coordinate" else 3), [2, 4, 8], sampler(form=form)
    mean = torch.zeros(1, 400_000 // dim, dim, dtype=torch.float64)
    mean[..., 0] = 1
    shifts, squares, one = [], [], torch.ones((), dtype=torch.float64)
    for n in substeps:
        system = System(lambda x, t, lengths=None: x, generator(0), None, None)
        start = x = mean + system.noise_like(mean)
        for _ in range(n):
            x = method.multiply(x, mean, 1.0, 1 / n, one, system)
        shifts.append(float((x - start)[..., 0].mean()))
        squares.append(float((x.square() - start.square()).sum(dim=-1).mean()))
    assert fitted_order(substeps, shifts) > 0.8
    assert fitted_order(substeps, squares) > 0.8


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_the_noise_step_leaves_its_gaussian_in_place_only_with_div_d(sampler):
    """Repeated noise steps against a fixed N(1, 1), restricted to the signs that it started with."""
    g, n = generator(0), 200_000
    system = System(lambda x, t, lengths=None: x, g, None, None)
    x = 1 + torch.randn(1, n, 1, generator=g, dtype=torch.float64)
    mean, kept, wrong = torch.ones_like(x), x, x
    one = torch.ones((), dtype=torch.float64)
    gamma = sampler.MAX_GAMMA
    for _ in range(round(2 / gamma)):
        kept = sampler().multiply(kept, mean, 1.0, gamma, one, system)
        wrong = sampler().multiply(wrong, mean, 1.0, gamma, 0 * one, system)
    # MAX_GAMMA promises 1 % of sigma; 4 standard errors of 200,000 draws are 0.009
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
