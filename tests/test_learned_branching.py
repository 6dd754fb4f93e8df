import math

import pytest
import torch
from lightning.fabric import Fabric

from mfcdm.branching import Branching, Learned, Renoise, branched
from mfcdm.branching.energy import energy_excess, projection_mean, random_directions
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import cloud_generators
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.branching import EVERY, BranchingTrainer
from mfcdm.training.options import TrainerOptions
from tests.laws import generator, three_shapes

SDE = CosineVPSDE()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def small(seed=0, **options) -> Learned:
    """In float64, and far from its first weights: all its parts count."""
    torch.manual_seed(seed)
    rule = Learned(**{"width": 16, "num_moments": 4, "num_scales": 2, "push": 0.0, **options}).double()
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return rule


# The energy distance


def mean_distance(x, y):
    return (x[:, :, None] - y[:, None]).norm(dim=-1).sum(dim=(1, 2))


def definition(u, y):
    """Sums over all pairs, as the module's docstring has them."""
    n, m = u.shape[1], y.shape[1]
    within = mean_distance(y, y) / (m * (m - 1))
    distance = 2 * mean_distance(u, y) / (n * m) - mean_distance(u, u) / n**2 - within
    return distance - within / n, within / n


@pytest.mark.parametrize(("n", "m"), [(1, 2), (7, 7), (5, 12), (20, 3)])
def test_the_energy_on_a_line_is_its_definition(n, m):
    u, y = normal(4, n, 1).requires_grad_(), normal(4, m, 1, seed=1)
    ours, theirs = energy_excess(u, y, torch.ones(1, 1)), definition(u, y)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-13)  # sums of at most 400 numbers of size 1
    # norm() has no derivative at the zero distance of a point to itself, and torch takes 0, which is right
    gradients = [torch.autograd.grad(excess.sum(), u)[0] for excess in (ours[0], theirs[0])]
    assert torch.allclose(*gradients, rtol=0, atol=1e-13)


def test_the_energy_in_the_plane_is_its_definition_over_even_directions():
    u, y = normal(3, 6, 2), normal(3, 9, 2, seed=1)
    angles = math.pi * (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    ours = energy_excess(u, y, torch.stack((angles.cos(), angles.sin())))
    # the midpoint rule on |cos| errs by at most h^2 / 12 times the jumps of its slope: 2 (pi / 2000)^2 / 12 = 4e-7
    for a, b in zip(ours, definition(u, y), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_random_directions_are_unbiased_and_orthonormal_in_frames():
    u, y = normal(1, 5, 3), normal(1, 8, 3, seed=1)
    theta = random_directions(3, 6000, generator(2))
    frames = theta.T.unflatten(0, (-1, 3))
    assert torch.allclose(frames @ frames.mT, torch.eye(3, dtype=torch.float64).expand(2000, 3, 3), atol=1e-12)
    assert float(theta[0].abs().mean()) == pytest.approx(projection_mean(3), abs=5 * 0.29 / 6000**0.5)
    single = torch.stack([energy_excess(u, y, frame.T)[0] for frame in frames])
    assert abs(float(single.mean() - definition(u, y)[0])) < 4 * float(single.std()) / 2000**0.5


def test_the_energy_has_mean_zero_for_fresh_points_and_is_that_of_copies_else():
    law, n = three_shapes().shapes[0], 16
    y, fresh, some = (law.sample(4000, n, generator(seed), dtype=torch.float64) for seed in (1, 2, 3))
    theta = random_directions(3, 6, generator(4))

    def mean(u):
        excess = energy_excess(u, y, theta)[0]
        return float(excess.mean()), float(excess.std()) / 4000**0.5

    found, error = mean(fresh)
    assert abs(found) < 4 * error
    expected = float(energy_excess(fresh, y, theta)[1].mean())  # E|y - y'| / n, once for the second copy
    found, error = mean(some[:, : n // 2].repeat(1, 2, 1))
    assert abs(found - expected) < 4 * error
    assert expected > 20 * error  # so that the two cases differ


# What Psi is


def test_children_commute_with_permutations():
    rule, x, z = small(), normal(2, 9, 3), normal(2, 18, 3, seed=1)
    t, order = torch.tensor([0.3, 0.8], dtype=torch.float64), torch.randperm(9, generator=generator(2))
    whole = rule.psi(x, t, SDE, z)
    both = torch.cat((order, 9 + order))  # of the two children of each
    assert torch.allclose(rule.psi(x[:, order], t, SDE, z[:, both]), whole[:, both], rtol=0, atol=1e-11)
    assert float((whole[:, :9] - whole[:, 9:]).norm(dim=-1).detach().min()) > 1e-3  # other noise, other child


def test_children_read_the_measure_and_the_noise():
    rule, x, z = small(), normal(1, 9, 3), normal(1, 9, 3, seed=1)
    t = torch.tensor([0.3], dtype=torch.float64)
    before = rule.psi(x, t, SDE, z).detach()
    moved = x.clone()
    moved[:, 8] += 3.0
    assert float((rule.psi(moved, t, SDE, z) - before)[:, :8].detach().abs().max()) > 1e-6
    far = torch.cat((x, x), dim=1)  # the same measure of twice as many particles
    assert torch.allclose(rule.psi(far, t, SDE, torch.cat((z, z), dim=1))[:, :9], before, rtol=0, atol=1e-9)


def test_a_network_that_says_nothing_keeps_the_law_of_standard_normal_data():
    rule, t = small(), 0.6
    torch.nn.init.zeros_(rule.out.weight)
    torch.nn.init.zeros_(rule.out.bias)
    x = normal(1, 20000, 3)
    made, pushed = rule.branch(x, t, SDE, 40000, generator(1))
    assert pushed == t
    parents, children = made[0, :20000], made[0, 20000:]
    assert torch.equal(parents, x[0])
    # 60,000 numbers: 4 standard errors of a mean, a variance and a correlation
    error = 4 / 60000**0.5
    assert abs(float(children.mean())) < error
    assert abs(float(children.var()) - 1) < error * 2**0.5
    alpha = float(SDE.alpha(torch.tensor(t, dtype=torch.float64)))
    assert abs(float((parents * children).mean()) - alpha**2) < error * 2**0.5


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(
    ("parents", "particles"), [(1, 1), (1, 2), (1, 7), (5, 5), (5, 3), (7, 9), (7, 14), (6, 18), (5, 33)]
)
def test_every_cardinality(dim, parents, particles):
    rule, x = small(dim=dim), normal(2, parents, dim)
    made, _ = rule.branch(x, 0.5, SDE, particles, generator(0))
    assert made.shape == (2, particles, dim)
    assert bool(made.isfinite().all())
    for cloud, own in zip(made, x, strict=True):
        assert len(cloud.unique(dim=0)) == particles  # no two in one place
        stayed = int((cloud[:, None] == own).all(dim=-1).sum())
        copies = -(-particles // parents)
        assert stayed <= min(parents, particles)
        assert stayed >= particles - (copies - 1) * parents  # there are no more children
        if particles == copies * parents:
            assert stayed == parents


def test_without_noise_children_of_one_parent_coincide():
    made, _ = small(noise=False).branch(normal(1, 6, 3), 0.5, SDE, 18, generator(0))
    assert torch.equal(made[:, 6:12], made[:, 12:])


def test_a_cloud_branches_the_same_in_every_batch():
    rule, x = small(push=0.7), normal(3, 5, 3)
    whole, _ = rule.branch(x, 0.4, SDE, 12, cloud_generators(1, range(3)))
    alone, _ = rule.branch(x[2:], 0.4, SDE, 12, cloud_generators(1, [2]))
    assert torch.allclose(whole[2:], alone, rtol=0, atol=1e-12)
    assert not torch.allclose(whole[0], whole[1])


def test_a_push_follows_the_forward_kernel():
    rule, x, push = small(), normal(1, 4, 3), 1.4
    rule.renoise = Renoise(push)
    ends = [rule.branch(x, 0.4, SDE, 8, generator(seed)) for seed in range(4)]
    assert {time for _, time in ends} == {Renoise(push).pushed_time(0.4, SDE)} == {rule.pushed_time(0.4, SDE)}
    bare = rule(x, 0.4, SDE, 8, (g := generator(0)))
    expected, _ = Renoise(push).pushed(bare, 0.4, SDE, g)
    assert torch.equal(ends[0][0], expected)


def test_both_rules_are_branchings():
    assert isinstance(Learned(), Branching)
    assert isinstance(Renoise(), Branching)


# What it learns


def test_a_trained_branching_is_nearer_to_fresh_points_than_copies_are():
    law, levels, t = three_shapes(), Subdivision([32, 64], [1.0, 0.6]), 0.6
    torch.manual_seed(0)
    rule, options = Learned(push=0.0), TrainerOptions(max_steps=250 * EVERY, batch_size=16)
    batches = Batches(Clouds(law.sample(64, 512, generator(0), dtype=torch.float32)), 16, 0)
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = BranchingTrainer(rule, MeanFieldScoreMatching(SDE, levels), batches, options, fabric)
    for step in range(0, options.max_steps, EVERY):
        trainer.step(batches.at(step), step, options.rate(step, options.share(step, 0.0)))
    x_0 = law.sample(400, 288, generator(9), dtype=torch.float32)
    mean, std = SDE.marginal(x_0, torch.full((400,), t))
    x = mean + std[:, None, None] * torch.randn(x_0.shape, generator=generator(8))
    parents, fresh = x[:, :32], x[:, 32:]

    def energy(u):
        """In units of a fresh set's, and its standard error."""
        excess, of_fresh = energy_excess(u, fresh, random_directions(3, 24, generator(7)))
        return float((excess / of_fresh.mean()).mean()), float((excess / of_fresh.mean()).std()) / 20

    (trained, error), (copies, error_of_copies) = (
        energy(u) for u in (rule.branch(parents, t, SDE, 64, generator(6))[0], branched(parents, 64))
    )
    assert abs(copies - 1) < 4 * error_of_copies  # b - 1
    # 250 steps bring it to -0.35; half of what copies have leaves room for another machine's rounding
    assert trained < 0.5 - 4 * error


# Refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"width": 6}, "num_heads must divide width"),
        ({"push": -1.0}, "push must be >= 0 nats and finite, got -1"),
        ({"radius": [1.0]}, r"radius must be two positive numbers \(R_data, R_noise\), got \[1.0\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Learned(**options)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="0 -> 4"):
        Learned().branch(torch.zeros(1, 0, 3), 0.5, SDE, 4)
    with pytest.raises(ValueError, match="4 -> 0"):
        Learned().branch(torch.zeros(1, 4, 3), 0.5, SDE, 0)
    with pytest.raises(ValueError, match=r"particles must be \(B, N, 3\), got \(1, 4, 2\)"):
        Learned().branch(torch.zeros(1, 4, 2), 0.5, SDE, 8)
    with pytest.raises(ValueError, match="at least two fresh draws, got 4 and 1"):
        energy_excess(torch.zeros(1, 4, 3), torch.zeros(1, 1, 3), torch.eye(3))
