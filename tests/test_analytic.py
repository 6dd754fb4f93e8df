import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from mfcdm.analytic import ExchangeableGaussian, GaussianMixture, ShapeMixture
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator, strong_interaction, three_shapes

LAWS = {
    "mixture": five_components(),
    "gaussian": ExchangeableGaussian(a=0.5, c=4.0),
    "repelling": ExchangeableGaussian(a=0.5, c=-0.3, dim=2),
    "shapes": three_shapes(),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("num_particles", [1, 2, 17])
def test_the_score_is_the_gradient_of_the_log_density(law, num_particles):
    for sde in (CosineVPSDE(), VPSDE()):
        t = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
        x = torch.randn(3, num_particles, law.dim, generator=generator(1), dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad(law.log_prob(x, t, sde).sum(), x)
        assert torch.allclose(law.score(x.detach(), t, sde), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_density_is_that_of_the_samples(law):
    """E_p[grad log p] = 0 and E_p[x . grad log p] = -N D, for any density p (integration by parts)."""
    x = law.sample(4000, 5, generator(0), dtype=torch.float64)
    sde, t = CosineVPSDE(t_min=1e-6), torch.full((4000,), 1e-6, dtype=torch.float64)
    score = law.score(x, t, sde)
    for statistic, expected in (((score * x).sum(dim=(1, 2)), -5.0 * law.dim), (score[:, 0, 0], 0.0)):
        standard_error = float(statistic.std()) / math.sqrt(4000)
        assert abs(float(statistic.mean()) - expected) < 4.5 * standard_error


def test_log_densities_agree_with_torch():
    law = ExchangeableGaussian(a=0.7, c=2.0, dim=2)
    x = law.sample(4, 6, generator(0), dtype=torch.float64)
    covariance = 0.7 * torch.eye(6, dtype=torch.float64) + 2.0 / 6
    normal = MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance)
    assert torch.allclose(law.log_prob(x), normal.log_prob(x.movedim(2, 0)).sum(dim=0), rtol=1e-12)
    mixture = GaussianMixture([[1.0, 0.0]], stds=0.5)
    y = mixture.sample(3, 4, generator(1), dtype=torch.float64)
    mean = torch.tensor([1.0, 0.0], dtype=torch.float64)
    point = MultivariateNormal(mean, 0.25 * torch.eye(2, dtype=torch.float64))
    assert torch.allclose(mixture.log_prob(y), point.log_prob(y).sum(dim=1), rtol=1e-12)


def test_exchangeable_samples_have_the_covariance_of_the_law():
    law = ExchangeableGaussian(a=0.5, c=4.0, dim=1)
    x = law.sample(40000, 4, generator(0), dtype=torch.float64)[..., 0]
    expected = 0.5 * torch.eye(4, dtype=torch.float64) + 4.0 / 4
    # a covariance of 40,000 draws has standard error about 1.5 * sqrt(2 / 40000) = 0.011
    assert torch.allclose(torch.cov(x.T), expected, atol=0.05)


def test_the_share_of_the_interaction_is_c_over_a_n():
    law, sde, n = strong_interaction(64), CosineVPSDE(), 64
    t = torch.full((512,), 0.01, dtype=torch.float64)
    x = law.sample(512, n, generator(0), dtype=torch.float64)
    a, b = law.coefficients(t[:1], sde)
    interaction = (b * x.mean(dim=1, keepdim=True)).square().mean() / (a * x).square().mean()
    assert float(interaction) > 0.2, "a test of B needs a law in which B matters"


def test_the_posterior_of_the_shape_saturates_with_the_cardinality():
    law, sde = three_shapes(), CosineVPSDE()
    t = torch.full((64,), 0.7, dtype=torch.float64)

    def certainty(n: int) -> float:
        x_0 = law.sample(64, n, generator(0), dtype=torch.float64)
        mean, std = sde.marginal(x_0, t)
        x = mean + std[:, None, None] * torch.randn(x_0.shape, generator=generator(1), dtype=torch.float64)
        alpha, sigma = sde.alpha(t)[:, None, None], sde.sigma(t)[:, None, None]
        own = torch.ones(64, n, 1, dtype=torch.bool)
        return float(law.log_joint(x, alpha, sigma, own).softmax(dim=1).max(dim=1).values.mean())

    few, many = certainty(2), certainty(512)
    assert few < 0.6 < 0.99 < many


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_padding_never_matters(law):
    sde, t = CosineVPSDE(), torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    lengths = torch.tensor([17, 1, 0])
    x = torch.randn(3, 17, law.dim, generator=generator(0), dtype=torch.float64)
    x[1, 1:], x[2] = torch.nan, torch.inf
    score = law.as_score(sde)(x, t, lengths=lengths)
    assert torch.allclose(score[0], law.score(x[:1], t[:1], sde)[0], rtol=1e-12)
    assert torch.allclose(score[1, :1], law.score(x[1:2, :1], t[1:2], sde)[0], rtol=1e-12)
    assert not score[1, 1:].any()
    assert not score[2].any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="a=1, c=-2"):
        ExchangeableGaussian(1, -2)
    with pytest.raises(ValueError, match=r"got \(2, 2\)"):
        GaussianMixture(torch.zeros(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="weights"):
        GaussianMixture(torch.zeros(2, 2), 0.1, [1.0, -1.0])
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        ShapeMixture([GaussianMixture(torch.zeros(1, 2)), GaussianMixture(torch.zeros(1, 3))])
    with pytest.raises(ValueError, match=r"\(B, N, 3\)"):
        five_components().log_prob(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="together"):
        five_components().log_prob(torch.zeros(1, 2, 3), t=torch.ones(1))
