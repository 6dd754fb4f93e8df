"""The forms and schedules of the noise, and the drift div D."""

import math

import pytest
import torch

from mfcdm.analytic import GaussianMixture
from mfcdm.samplers import Geometric, Langevin, LinearNoise, PredictorCorrector, UnderdampedLangevin
from mfcdm.samplers.base import Point, System
from mfcdm.samplers.grids import time_grid
from mfcdm.samplers.strength import noise_clock
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import generator

FORMS = ["coordinate", "isotropic"]


def system_of(seed):
    return System(lambda x, t, lengths=None: x, generator(seed), None, None)


def numerical_div(sampler, x):
    """div D by central differences: sum over j, b of d D_(ia)(jb) / d x_jb for one cloud (N, D), g = 1."""
    num_particles, dim = x.shape

    def diffusion(x):
        c = x.mean(dim=0) if sampler.center == "mean" else torch.zeros(dim, dtype=x.dtype)
        return torch.diag((0.5 * sampler.square(x - c)).expand(x.shape).flatten())

    total, h = torch.zeros(num_particles * dim, dtype=x.dtype), 1e-5
    for k in range(num_particles * dim):
        step = torch.zeros_like(x).flatten()
        step[k] = h
        step = step.view_as(x)
        total += (diffusion(x + step) - diffusion(x - step))[:, k] / (2 * h)
    return total.view_as(x)


@pytest.mark.parametrize("center", ["origin", "mean"])
@pytest.mark.parametrize("form", FORMS)
def test_div_d_is_the_divergence_of_d(form, center):
    """As the sampler states it, factor times x - c; D is a polynomial of degree 2, so differences are exact."""
    x = torch.randn(4, 3, generator=generator(0), dtype=torch.float64)
    sampler = LinearNoise(form=form, center=center)
    c, factor = sampler.center_of(x[None], system_of(0))
    assert torch.allclose((factor * (x - c)).reshape(4, 3), numerical_div(sampler, x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_geometric_brownian_motion_grows_by_div_d(sampler, form):
    """Without a score dy = div g^2 y dt + g |y| dB, of E y = e^(div T) y and E |y|^2 = e^((2 div + d) T) |y|^2, g = 1.

    d is 1 coordinate by coordinate and the dimension otherwise. Linear noise steps are Euler-Maruyama's, of weak order
    1: (1 + h)^n against e^T is 1/2 T h = 0.1 % of E y, and 1/2 (2 div + d)^2 T h = 1 % at most of E |y|^2.
    """
    dim, n, end, num_steps, sigma = 2, 100_000, 0.25, 25, 1e4  # the score (m - y) / sigma^2 is 1e-8: none
    method, d = sampler(form=form), 1 if form == "coordinate" else dim
    for factor in (1.0, 0.0):
        y, system = torch.ones(1, n, dim, dtype=torch.float64), system_of(1)
        div = torch.tensor(factor, dtype=torch.float64)
        for _ in range(num_steps):
            y = method.multiply(y, y, sigma, end / num_steps / sigma**2, div, system)
        mean, square = math.exp(factor * end), math.exp((2 * factor + d) * end)
        # 4 standard errors of 100,000 draws, whose spread is below 1 and 3, and the weak error
        assert float(y[..., 0].mean()) == pytest.approx(mean, rel=0.013)
        assert float(y[..., 0].square().mean()) == pytest.approx(square, rel=0.05)


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_isotropic_noise_steps_leave_their_gaussian_in_place(sampler):
    """Repeated against a fixed N(m, I) in R^3, |m| = 1: a path in space walks round the centre, no part is cut off."""
    n, gamma = 50_000, 1 / 32
    mean = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, n, 3)
    method, system = sampler(form="isotropic"), system_of(0)
    x = mean + torch.randn(1, n, 3, generator=generator(1), dtype=torch.float64)
    kept, wrong, one = x, x, torch.ones((), dtype=torch.float64)
    for _ in range(round(1 / gamma)):
        kept = method.multiply(kept, mean, 1.0, gamma, one, system)
        wrong = method.multiply(wrong, mean, 1.0, gamma, 0 * one, system)
    # 4 standard errors of 50,000 draws are 0.018; the bias of a substep is below 0.02
    assert float((kept - mean).mean(dim=(0, 1)).abs().max()) < 0.05
    assert torch.allclose(kept.std(dim=1)[0], one, atol=0.05)
    assert float(wrong[..., 0].mean()) < 0.85, "without div D the mass falls towards the centre"


@pytest.mark.parametrize("center", ["origin", "mean"])
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_both_forms_are_one_on_a_line(sampler, center):
    class Outward(System):  # noise that multiplies y points away from the centre
        def noise_like(self, y):
            return super().noise_like(y) * y.sign()

    x = 1 + torch.randn(2, 5, 1, generator=generator(0), dtype=torch.float64)
    coordinate = sampler(center=center).noise_step(x, 0.9 * x, 0.7, 0.3, system_of(1))
    outward = Outward(lambda x, t, lengths=None: x, generator(1), None, None)
    isotropic = sampler(form="isotropic", center=center).noise_step(x, 0.9 * x, 0.7, 0.3, outward)
    assert torch.allclose(coordinate, isotropic, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_isotropic_noise_turns_with_space(sampler):
    """Turned particles and turned noise give turned results; noise by coordinates has axes of its own."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(2), dtype=torch.float64))[0]

    class Turned(System):
        def noise_like(self, x):
            return super().noise_like(x) @ turn

    x = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    for form, same in (("isotropic", True), ("coordinate", False)):
        method = sampler(form=form, center="mean")
        turned = Turned(lambda x, t, lengths=None: x, generator(1), None, None)
        y = method.noise_step(x, 0.9 * x, 0.5, 0.2, system_of(1))
        z = method.noise_step(x @ turn, 0.9 * x @ turn, 0.5, 0.2, turned)
        assert torch.allclose(y @ turn, z, rtol=1e-10, atol=1e-10) is same


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=repr)
@pytest.mark.parametrize("schedule", ["beta", "constant", "sigma"])
def test_the_clock_is_the_integral_of_its_formula(sde, schedule):
    """Against a midpoint rule in log t with 200,000 nodes, whose error is far below 1e-7."""
    early, late = 0.9, 0.01
    log_t = torch.linspace(math.log(late), math.log(early), 200_001, dtype=torch.float64)
    t = (0.5 * (log_t[1:] + log_t[:-1])).exp()
    rate = -2 * sde.log_alpha(torch.tensor(1.0, dtype=torch.float64))
    square = {"beta": sde.beta(t), "constant": rate.expand_as(t), "sigma": rate * sde.sigma(t) ** 2}[schedule]
    integral = float((square / sde.sigma(t) ** 2 * t).sum() * (log_t[1] - log_t[0]))
    clocks = [noise_clock(sde, time, schedule) for time in (late, early)]
    assert clocks[0] - clocks[1] == pytest.approx(integral, rel=1e-7)


def test_there_is_no_noise_below_noise_until():
    sde, law, g = CosineVPSDE(), GaussianMixture([[0.5]], 0.2), generator(0)
    method = Langevin(num_steps=20, noise_until=0.3)
    points = [method.point(sde, t) for t in (0.5, 0.31, 0.29, 0.1)]
    assert method.gamma(points[0], points[1]) == pytest.approx(points[1].log_snr - points[0].log_snr)
    upto = Point.at(sde, 0.3).log_snr - points[1].log_snr
    assert method.gamma(points[1], points[2]) == pytest.approx(upto), "the step across it has noise for its first part"
    assert method.gamma(points[2], points[3]) == 0.0
    x = sde.prior_sample((1, 16, 1), g, dtype=torch.float64)
    runs = [method.sample(law.as_score(sde), sde, x, t_start=0.3, generator=generator(s)) for s in (1, 2)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_a_time_grid_is_not_too_wide_far_from_the_centre(sampler):
    """N(10, 0.3^2), the noise 10 times Langevin's: extrapolated by the flow's rule 100 steps leave 36 % too much."""
    sde, n = CosineVPSDE(), 4_000
    law, g = GaussianMixture([[10.0]], 0.3), generator(0)
    x_1 = 10 * float(sde.alpha(torch.tensor(1.0))) + sde.prior_sample((1, n, 1), g)
    x = sampler(num_steps=100, grid="time").sample(law.as_score(sde), sde, x_1, generator=g)
    # 4.6 % of discretisation (3.3 % on the even grid) and 4 standard errors of 1.1 %
    assert float(x.std()) / 0.3 == pytest.approx(1, abs=0.095)
    assert float(x.mean()) == pytest.approx(10, abs=0.03)


@pytest.mark.parametrize("sampler", [Langevin, UnderdampedLangevin, LinearNoise, Geometric])
@pytest.mark.parametrize("ulps", [-1, 0, 1])
@pytest.mark.parametrize("share", [0.0, 1e-9, 1e-4])
def test_noise_may_end_at_a_time_of_the_grid_up_to_rounding(sampler, ulps, share):
    """On N(0, I / 4); a step with hardly any noise must not magnify what the step before has moved."""
    sde, law = CosineVPSDE(), GaussianMixture(torch.zeros(1, 3).double(), 0.5)
    grid = time_grid(sde, 1.0, 0.1, 9, "time").double()
    until = float(grid[5]) - share * float(grid[5] - grid[6])
    for _ in range(abs(ulps)):
        until = math.nextafter(until, ulps)
    x_1 = sde.prior_sample((1, 4096, 3), generator(0), dtype=torch.float32)
    end = {"t_end": 0.1, "generator": generator(1)}
    x = sampler(num_steps=9, grid="time", noise_until=until).sample(law.as_score(sde), sde, x_1, **end)
    later = sampler(num_steps=9, grid="time", noise_until=float(grid[5]) + 1e-3).sample(
        law.as_score(sde), sde, x_1, t_end=0.1, generator=generator(1)
    )
    # What is left of noise in that step is at most 1e-4 of a step's; both clouds have 12,288 coordinates.
    assert float(x.std()) == pytest.approx(float(later.std()), rel=0.05)


def test_numbers_that_are_no_whole_numbers_are_refused():
    for make in (lambda: Langevin(num_steps=5.0), lambda: PredictorCorrector(num_corrections=1.0)):
        with pytest.raises(ValueError, match=r"must be a whole number >= [01], got (5\.0|1\.0)"):
            make()
    with pytest.raises(ValueError, match=r"noise must lie in \[0, 1e\+06\], got 1e\+200"):
        Langevin(noise=1e200)
