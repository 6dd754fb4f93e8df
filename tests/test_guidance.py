"""Classifier-free guidance on laws whose scores with and without class are exact, and on a network that learned one."""

import pytest
import torch
from torch import nn

from mfcdm.branching import Renoise
from mfcdm.generate import generate, generate_from_score
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.networks import ScoreNetwork, as_score
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from tests.laws import generator, three_shapes

SDE, LAW = CosineVPSDE(), three_shapes()
T = torch.tensor([0.05, 0.4, 0.7], dtype=torch.float64)
LABELS = torch.tensor([2, 0, 1])
SOME = torch.tensor([9, 4, 1])  # points of clouds of 9


class Exact(nn.Module):
    """v of a cloud of `three_shapes`: of shape z's own law given the label z, of their mixture given none."""

    dim, num_classes, prediction = 3, 3, "v"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))  # tells `generate` dtype and device
        self.seen = []

    def forward(self, x, t, lengths=None, label=None):
        self.seen.append((len(x), None if label is None else label.tolist()))
        label = torch.full((len(x),), -1) if label is None else label
        laws = torch.stack([law.score(x, t, SDE, lengths) for law in (*LAW.shapes, LAW)])  # the last at label -1
        alpha, sigma = SDE.alpha(t)[:, None, None], SDE.sigma(t)[:, None, None]
        v = -sigma * (laws[label, torch.arange(len(x))] + x) / alpha
        return v if lengths is None else torch.where(torch.arange(x.shape[1])[:, None] < lengths[:, None, None], v, 0)


def noisy(num_particles=9):
    """Clouds at the times T of the classes LABELS, (3, N, 3)."""
    x_0 = torch.stack([LAW.shapes[z].sample(1, num_particles, generator(z), torch.float64)[0] for z in LABELS.tolist()])
    mean, std = SDE.marginal(x_0, T)
    return mean + std[:, None, None] * torch.randn(x_0.shape, generator=generator(9), dtype=torch.float64)


def close(a, b):
    """Equal but for rounding: a score is about 1 / sigma = 13 at most here, and v and back are a few operations."""
    return torch.allclose(a, b, rtol=1e-11, atol=1e-11)


def tilted(x, t, label, guidance):
    """Gradient of the log of p(x)^(1 - guidance) p(x | label)^guidance, by differentiation of the densities."""
    x = x.clone().requires_grad_()
    given = LAW.shapes[label].log_prob(x, t, SDE)
    (gradient,) = torch.autograd.grad(((1 - guidance) * LAW.log_prob(x, t, SDE) + guidance * given).sum(), x)
    return gradient


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_the_guided_score_is_that_of_the_tilted_density(guidance):
    x = noisy()
    score = as_score(Exact(), SDE, LABELS, guidance)(x, T)
    for b, z in enumerate(LABELS.tolist()):
        assert close(score[b : b + 1], tilted(x[b : b + 1], T[b : b + 1], z, guidance))


def test_the_densities_differ_enough_to_tell_guidances_apart():
    x = noisy()
    scores = [as_score(Exact(), SDE, LABELS, guidance)(x, T) for guidance in (0.0, 1.0, 2.0)]
    assert float((scores[0] - scores[1])[2].abs().max()) > 0.1  # at t = 0.7 nine points do not betray their shape
    assert float((scores[2] - scores[1])[2].abs().max()) > 0.1


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
def test_padding_never_matters_under_guidance(guidance):
    x = noisy()
    padded = torch.where(torch.arange(9)[:, None] < SOME[:, None, None], x, torch.nan)
    score = as_score(Exact(), SDE, LABELS, guidance)(padded, T, lengths=SOME)
    for b, n in enumerate(SOME.tolist()):
        assert close(score[b : b + 1, :n], tilted(x[b : b + 1, :n], T[b : b + 1], int(LABELS[b]), guidance))
        assert (score[b, n:] == 0).all()


def test_one_evaluation_whatever_the_guidance():
    seen = {}
    for guidance in (0.0, 1.0, 2.0):
        network = Exact()
        as_score(network, SDE, LABELS, guidance)(noisy(), T)
        (seen[guidance],) = network.seen
    assert seen == {0.0: (3, [-1] * 3), 1.0: (3, [2, 0, 1]), 2.0: (6, [-1, -1, -1, 2, 0, 1])}


@pytest.mark.parametrize("prediction", ["v", "noise"])
@pytest.mark.parametrize("lengths", [None, SOME], ids=["whole", "lengths"])
def test_a_networks_guided_score_is_the_combination_of_its_two(prediction, lengths):
    torch.manual_seed(0)
    network = ScoreNetwork(width=16, depth=2, num_moments=4, channels=4, num_classes=3, prediction=prediction).double()
    x, label = noisy(), torch.tensor([2, -1, 1])
    none, given, guided = (as_score(network, SDE, label, w)(x, T, lengths) for w in (0.0, 1.0, 2.5))
    assert close(guided, none + 2.5 * (given - none))
    assert close(none, as_score(network, SDE)(x, T, lengths))
    assert not torch.allclose(guided[0], given[0], atol=1e-3)
    assert close(guided[1], none[1])  # -1 is no label: nothing to lead to


@pytest.mark.parametrize("guidance", [-0.1, float("nan"), float("inf"), -float("inf")])
def test_guidance_out_of_range_is_refused(guidance):
    with pytest.raises(ValueError, match=f"guidance must be >= 0 and finite, got {guidance}"):
        as_score(Exact(), SDE, LABELS, guidance)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_guidance_that_leads_nowhere_is_refused(guidance):
    with pytest.raises(ValueError, match=f"guidance={guidance} needs labels"):
        as_score(Exact(), SDE, None, guidance)
    with pytest.raises(ValueError, match=f"guidance={guidance} needs a network with classes"):
        as_score(ScoreNetwork(width=16, depth=1), SDE, LABELS, guidance)
    with pytest.raises(ValueError, match=r"labels must be \(3,\), got \(2,\)"):
        as_score(Exact(), SDE, LABELS[:2], guidance)(noisy(), T)


# Generation

LEVELS = Subdivision.dyadic(64, 2, sde=SDE)
PARTS = (SDE, Langevin(num_steps=60), LEVELS, Renoise())


def distances(x, seed=5):
    """Sliced Wasserstein distance of each cloud to fresh points of each shape, (B, 3)."""
    g = generator(seed)
    fresh = [shape.sample(len(x), x.shape[1], g, dtype=x.dtype) for shape in LAW.shapes]
    return torch.stack([sliced_wasserstein_distance(x, y) for y in fresh], dim=1)


def test_clouds_of_an_exact_law_are_of_the_class_that_is_asked_for():
    label = torch.arange(24) % 3
    x = generate(Exact(), *PARTS, num_clouds=24, num_particles=64, label=label)
    own = distances(x)[torch.arange(24), label]
    truth = torch.stack(
        [LAW.shapes[z].sample(1, 64, generator(100 + b), x.dtype)[0] for b, z in enumerate(label.tolist())]
    )
    floor = distances(truth, seed=6)[torch.arange(24), label]
    # branching leaves up to 1.25 times the error, see benchmarks/branching.py; 24 clouds scatter
    assert own.mean() < 1.25 * floor.mean() + 4 * floor.std() / 24**0.5
    assert (distances(x).argmin(dim=1) == label).all()


def test_guidance_0_ignores_the_class_and_draws_all_of_them():
    label = torch.full((24,), 1)
    make = lambda **how: generate(Exact(), *PARTS, num_clouds=24, num_particles=64, **how)  # noqa: E731
    x = make(label=label, guidance=0.0)
    assert torch.equal(x, make())
    assert set(distances(x).argmin(dim=1).tolist()) == {0, 1, 2}  # one is missed by 24 clouds once in 6,000 times


def test_generation_hands_guidance_to_the_score_in_batches():
    label = torch.tensor([2, 0, 1])
    x = generate(Exact(), *PARTS, num_clouds=3, num_particles=20, label=label, guidance=2.0, batch_size=2)
    for b in range(3):
        score, (g,) = as_score(Exact(), SDE, label[b : b + 1], 2.0), cloud_generators(0, [b])
        alone = generate_from_score(
            score, *PARTS, dim=3, num_clouds=1, num_particles=20, generator=[g], dtype=torch.float64
        )
        torch.testing.assert_close(x[b : b + 1], alone, rtol=0, atol=1e-9)  # another batch rounds otherwise
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs labels"):
        generate(Exact(), *PARTS, num_clouds=3, num_particles=20, guidance=2.0)


# Learning

FEW = Subdivision([16], [1.0])


def trained(steps=200):
    """A small network after some steps on clouds of 16 points of two of the shapes."""
    torch.manual_seed(0)
    network = ScoreNetwork(width=32, depth=2, num_moments=8, interactions=("global",), num_classes=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objective, g = MeanFieldScoreMatching(SDE, FEW, label_dropout=0.3), generator(0)
    for _ in range(steps):
        label = torch.arange(64) % 2
        x_0 = torch.stack([shape.sample(64, 16, g) for shape in LAW.shapes])[label, torch.arange(64)]
        loss = objective(network, x_0, label=label, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def test_a_network_learns_its_classes_and_the_score_without_one():
    network, label = trained(), torch.arange(48) % 2

    def nearest(**how):
        x = generate(network, SDE, Langevin(num_steps=30), FEW, Renoise(), num_clouds=48, num_particles=16, **how)
        t = torch.full((48,), 0.2)  # a little noise forgives what so short a training leaves
        return torch.stack([shape.log_prob(x, t, SDE) for shape in LAW.shapes[:2]]).argmax(dim=0)

    for guidance in (1.0, 2.0):
        right = float((nearest(label=label, guidance=guidance) == label).float().mean())
        assert right > 0.9, guidance  # by chance 0.5 with a standard deviation of 0.07
    share = float(nearest().float().mean())
    assert 0.15 < share < 0.85, share  # both classes where no label is given
