import pytest
import torch

from mfcdm.networks import as_score
from mfcdm.networks.parametrization import (
    noise_from_output,
    noise_from_x_0,
    score_from_noise,
    target,
    x_0_from_output,
    x_0_from_score,
)
from mfcdm.sde import CosineVPSDE


@pytest.mark.parametrize("prediction", ["v", "noise"])
def test_all_conversions_agree_on_one_draw(prediction):
    g = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 3, 5, 3, generator=g, dtype=torch.float64)
    t = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    alpha, sigma = (c(t)[:, None, None] for c in (CosineVPSDE().alpha, CosineVPSDE().sigma))
    x_t = alpha * x_0 + sigma * noise
    output = target(prediction, x_0, noise, alpha, sigma)
    # alpha(0.99) is 0.02, so x_0 is recovered with 50 times the rounding of x_t
    assert torch.allclose(noise_from_output(prediction, output, x_t, alpha, sigma), noise, rtol=1e-12, atol=1e-12)
    assert torch.allclose(x_0_from_output(prediction, output, x_t, alpha, sigma), x_0, rtol=1e-11, atol=1e-11)
    score = score_from_noise(noise, sigma)
    assert torch.allclose(x_0_from_score(score, x_t, alpha, sigma), x_0, rtol=1e-11, atol=1e-11)
    assert torch.allclose(noise_from_x_0(x_0, x_t, alpha, sigma), noise, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", ["v", "noise"])
def test_a_network_that_knows_the_data_has_the_score_of_a_point_mass(prediction):
    sde, x_0 = CosineVPSDE(), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def network(x, t, lengths=None, label=None):
        alpha, sigma = sde.alpha(t)[:, None, None], sde.sigma(t)[:, None, None]
        noise = (x - alpha * x_0) / sigma
        return noise if prediction == "noise" else alpha * noise - sigma * x_0

    network.prediction = prediction
    t = torch.tensor([0.1, 0.6], dtype=torch.float64)
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    alpha, sigma = sde.alpha(t)[:, None, None], sde.sigma(t)[:, None, None]
    assert torch.allclose(as_score(network, sde)(x, t), (alpha * x_0 - x) / sigma**2, rtol=1e-10)
    padded = as_score(network, sde)(x, t, lengths=torch.tensor([7, 2]))
    assert not padded[1, 2:].any()
