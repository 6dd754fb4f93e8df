"""A network with an interaction learns the scores of interacting laws that one without cannot, at any cardinality."""

import pytest
import torch

from mfcdm.analytic import ExchangeableGaussian, Law
from mfcdm.networks import ScoreNetwork
from mfcdm.networks.parametrization import noise_from_output
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from tests.laws import generator, strong_interaction, three_shapes

SDE = CosineVPSDE()
TRAINED = 16  # particles


def trained(law: Law, interactions: tuple[str, ...], steps: int = 350) -> ScoreNetwork:
    torch.manual_seed(0)
    network = ScoreNetwork(width=32, depth=2, num_moments=8, num_scales=3, channels=8, interactions=interactions)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objective, g = MeanFieldScoreMatching(SDE, Subdivision([TRAINED], [1.0])), generator(0)
    for _ in range(steps):
        loss = objective(network, law.sample(64, TRAINED, g), generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def score_error(network: ScoreNetwork, law: Law, num_particles: int) -> float:
    """Mean square error of the predicted noise -sigma s against the exact one, at times where the interaction acts."""
    t = torch.linspace(0.15, 0.75, 128)
    g = generator(1)
    x_0 = law.sample(128, num_particles, g)
    mean, std = SDE.marginal(x_0, t)
    x_t = mean + std[:, None, None] * torch.randn(x_0.shape, generator=g)
    alpha, sigma = SDE.alpha(t)[:, None, None], SDE.sigma(t)[:, None, None]
    predicted = noise_from_output("v", network(x_t, t), x_t, alpha, sigma)
    return float((predicted + sigma * law.score(x_t, t, SDE)).square().mean())


@pytest.mark.parametrize(
    ("law", "cardinalities"),
    [
        # c >= a N / 2 at every cardinality here: the share of B in the score is about c / (a N)
        (strong_interaction(TRAINED), (4, 8, 16, 24)),
        (three_shapes(), (8, 16, 64, 256)),
    ],
    ids=["ExchangeableGaussian", "ShapeMixture"],
)
def test_the_interaction_is_learned_and_carries_over_to_other_cardinalities(law, cardinalities):
    if isinstance(law, ExchangeableGaussian):
        assert all(law.c >= law.a * n / 2 for n in cardinalities)
    with_b, without_b = trained(law, ("local", "global")), trained(law, ())
    for n in cardinalities:
        errors = score_error(with_b, law, n), score_error(without_b, law, n)
        assert errors[0] < 0.7 * errors[1], (n, errors)
