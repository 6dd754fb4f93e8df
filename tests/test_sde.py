import math

import pytest
import torch

from mfcdm.sde import SDE, VPSDE, CosineVPSDE

SDES = [CosineVPSDE(), VPSDE(), VPSDE(beta_min=0.5, beta_max=0.5, t_min=1e-2)]
EPS = torch.finfo(torch.float64).eps


def times(sde: SDE, n: int = 257) -> torch.Tensor:
    return torch.linspace(sde.t_min, 1.0, n, dtype=torch.float64)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_signal_and_noise_share_the_variance(sde):
    t = times(sde)
    # a handful of roundings of numbers near 1
    assert torch.allclose(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, torch.ones_like(t), atol=8 * EPS, rtol=0)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_beta_is_the_decay_rate_of_alpha(sde):
    t = times(sde).requires_grad_()
    (slope,) = torch.autograd.grad(sde.log_alpha(t).sum(), t)
    assert torch.allclose(sde.beta(t), -2 * slope, rtol=1e-10)  # tan of an angle near pi/2 amplifies rounding 1e4 times


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_log_snr_falls_and_has_an_inverse(sde):
    t = times(sde)
    log_snr = sde.log_snr(t)
    assert torch.allclose(log_snr, 2 * (sde.alpha(t) / sde.sigma(t)).log(), rtol=1e-9, atol=1e-9)
    assert bool((log_snr.diff() < 0).all())
    assert torch.allclose(sde.time_of_log_snr(log_snr), t, rtol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_float32_keeps_the_small_noise_of_early_times(sde):
    t = torch.tensor([sde.t_min, 2 * sde.t_min])
    exact = sde.sigma(t.double())
    assert torch.allclose(sde.sigma(t).double(), exact, rtol=16 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("t_min", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("make", [CosineVPSDE, VPSDE])
def test_float32_keeps_the_small_noise_of_a_transition_from_early_times(make, t_min):
    sde = make(t_min=t_min)
    later = float(sde.time_of_log_snr(sde.log_snr(torch.tensor(t_min, dtype=torch.float64)) - 0.5))
    s, t = torch.tensor([t_min]), torch.tensor([later])
    exact = sde.transition(torch.ones(1, 1, 1).double(), s.double(), t.double())[1]
    beyond = float(sde.sigma(t.double()) ** 2 - sde.sigma(s.double()) ** 2)  # of which std is the root, but for alpha
    std = sde.transition(torch.ones(1, 1, 1), s, t)[1]
    assert std.dtype == torch.float32
    assert float(std) == pytest.approx(float(exact), rel=1e-6)
    assert float(std) == pytest.approx(math.sqrt(beyond), rel=1e-3)


def test_the_cosine_schedule_ends_at_log_snr_minus_ten():
    sde, one = CosineVPSDE(), torch.tensor(1.0, dtype=torch.float64)
    assert float(sde.log_snr(one)) == pytest.approx(-10.0, abs=1e-9)
    assert float(sde.alpha(one)) == pytest.approx(1 / math.sqrt(1 + math.exp(10)), rel=1e-9)
    # the angle is at most pi/2 - theta short of the plain cosine schedule's
    t = times(sde)
    assert torch.allclose(sde.alpha(t), (math.pi / 2 * t).cos(), rtol=0, atol=math.pi / 2 - sde.theta)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_transition_carries_one_marginal_into_another(sde):
    x_0 = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    s, t = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    mean_s, std_s = sde.marginal(x_0, s)
    mean_t, std = sde.transition(mean_s, s, t)
    ratio = sde.alpha(t) / sde.alpha(s)
    expected_mean, expected_std = sde.marginal(x_0, t)
    assert torch.allclose(mean_t, expected_mean, rtol=1e-12)
    assert torch.allclose(ratio**2 * std_s**2 + std**2, expected_std**2, rtol=1e-12)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_euler_discretisation_converges_to_the_marginal_at_order_one(sde):
    """The Euler step's mean and variance follow an exact recursion, so the weak order is fitted without sampling."""

    def errors(n: int) -> tuple[float, float]:
        start, end = sde.t_min, 0.9
        h, t = (end - start) / n, start
        first = torch.tensor([start], dtype=torch.float64)
        mean, variance = sde.marginal(torch.ones(1, 1, 1, dtype=torch.float64), first)
        variance = variance**2
        for _ in range(n):
            time = torch.tensor([t], dtype=torch.float64)
            growth = 1 + h * sde.drift(torch.ones(1, 1, 1, dtype=torch.float64), time)  # the drift is linear in x
            mean, variance = growth * mean, (growth**2).flatten() * variance + h * sde.diffusion(time) ** 2
            t += h
        exact_mean, exact_std = sde.marginal(torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([end]).double())
        return abs(float(mean - exact_mean)), abs(float(variance - exact_std**2))

    coarse, fine = errors(400), errors(1600)
    orders = [math.log(c / f, 4) for c, f in zip(coarse, fine, strict=True)]
    assert all(0.9 < order < 1.1 for order in orders), orders


def test_the_forward_process_reaches_its_marginal_by_simulation():
    sde, n = VPSDE(), 500
    g = torch.Generator().manual_seed(0)
    x = torch.full((1, 20000, 1), 2.0, dtype=torch.float64)
    for t in torch.linspace(0, 0.5, n + 1, dtype=torch.float64)[:-1]:
        h, time = 0.5 / n, t[None]
        xi = torch.randn(x.shape, generator=g, dtype=x.dtype)
        x = x + h * sde.drift(x, time) + math.sqrt(h) * sde.diffusion(time) * xi
    mean, std = sde.marginal(torch.full((1, 1, 1), 2.0, dtype=torch.float64), torch.tensor([0.5]).double())
    # four standard errors of 20,000 draws, and the step's own bias of order beta h = 0.01
    assert float(x.mean()) == pytest.approx(float(mean), abs=4 / math.sqrt(20000) + 0.01)
    assert float(x.std()) == pytest.approx(float(std), abs=4 / math.sqrt(40000) + 0.01)


def test_coefficients_keep_the_dtype_of_time():
    for sde in SDES:
        for dtype in (torch.float32, torch.float64):
            t = torch.tensor([0.5], dtype=dtype)
            assert {f(t).dtype for f in (sde.alpha, sde.sigma, sde.beta, sde.log_snr, sde.diffusion)} == {dtype}
            assert sde.drift(torch.ones(1, 2, 3, dtype=torch.float64), t).dtype == torch.float64


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="t_min must lie in"):
        CosineVPSDE(t_min=0.0)
    with pytest.raises(ValueError, match="beta_min=3"):
        VPSDE(beta_min=3, beta_max=2)
