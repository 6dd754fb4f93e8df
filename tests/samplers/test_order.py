"""Orders of convergence, fitted. On a Gaussian law the first two are free of Monte-Carlo error."""

import math

import pytest
import torch

from mfcdm.analytic import GaussianMixture
from mfcdm.samplers import Geometric, Langevin, LinearNoise, ProbabilityFlow
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


def exact_variance(sampler, sde, std: float, monkeypatch) -> float:
    """Variance at T_END of a linear sampler on N(0, std^2): the sum of squares of its coefficients."""
    OrthogonalNoise.count = 0
    monkeypatch.setattr("mfcdm.samplers.base.System", OrthogonalNoise)
    x_1 = torch.zeros(1, sampler.num_steps + 1, 1, dtype=torch.float64)
    start = torch.tensor(1.0, dtype=torch.float64)
    # the coefficient of x_1 itself; its variance is that of the law at t = 1
    x_1[0, 0] = ((sde.alpha(start) * std) ** 2 + sde.sigma(start) ** 2).sqrt()
    law = GaussianMixture([[0.0]], std)
    x = sampler.sample(law.as_score(sde), sde, x_1, t_end=T_END)
    return float(x.square().sum())


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=repr)
@pytest.mark.parametrize(
    ("sampler", "order"),
    [(Langevin(), 0.8), (ProbabilityFlow(method="euler"), 0.8), (ProbabilityFlow(method="heun"), 1.8)],
    ids=lambda value: getattr(value, "method", type(value).__name__),
)
def test_the_variance_converges_at_the_stated_order(sde, sampler, order, monkeypatch):
    std, steps = 0.3, [64, 128, 256, 512]
    t = torch.tensor(T_END, dtype=torch.float64)
    truth = float((sde.alpha(t) * std) ** 2 + sde.sigma(t) ** 2)
    errors = [exact_variance(sampler.with_steps(n), sde, std, monkeypatch) - truth for n in steps]
    assert fitted_order(steps, errors) > order


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
@pytest.mark.parametrize("sampler", [Langevin, LinearNoise, Geometric, ProbabilityFlow])
def test_the_marginals_on_the_way_are_kept(sampler, t_end):
    law, sde, n = GaussianMixture([[0.7], [-0.4]], 0.2, [2.0, 1.0]), CosineVPSDE(), 20_000
    g = generator(1)
    x = sampler(num_steps=200).sample(law.as_score(sde), sde, sde.prior_sample((1, n, 1), g), t_end=t_end, generator=g)
    t = torch.tensor([t_end], dtype=torch.float64)
    mean, std = sde.marginal(law.sample(1, n, generator(2), dtype=torch.float64), t)
    fresh = mean + std * torch.randn(mean.shape, generator=generator(3), dtype=torch.float64)
    gap = (x.double().flatten().sort().values - fresh.flatten().sort().values).abs().mean()
    # two samples of n points of spread <= 1 differ by about 0.8 / sqrt(n) = 0.006
    assert float(gap) < 0.025
