import itertools
import math

import pytest
import torch

from mfcdm.analytic import ExchangeableGaussian
from mfcdm.interpolation import assignment, decode, encode, interpolate, turned
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator

SDE = CosineVPSDE()
WEIGHTS = torch.tensor([0.0, 0.3, 1.0])


def order_of(errors, steps):
    """Slope of log error against log step size."""
    logs = torch.tensor([steps, errors], dtype=torch.float64).log()
    centred = logs - logs.mean(dim=1, keepdim=True)
    return -float((centred[0] * centred[1]).sum() / centred[0].square().sum())


def flow_of(law, x, sde, back=False):
    """The flow of an exchangeable Gaussian between t_min and 1 in closed form: it stretches both modes."""
    ends = torch.tensor([1.0, sde.t_min] if back else [sde.t_min, 1.0], dtype=torch.float64)
    alone = sde.alpha(ends) ** 2 * law.a + sde.sigma(ends) ** 2
    common = alone + sde.alpha(ends) ** 2 * law.c
    mean = x.mean(dim=1, keepdim=True)
    return (alone[1] / alone[0]).sqrt() * (x - mean) + (common[1] / common[0]).sqrt() * mean


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=["cosine", "linear"])
def test_the_noise_of_a_gaussian_is_the_closed_form_to_second_order(sde):
    law, steps = ExchangeableGaussian(a=0.3, c=6.0, dim=2), (25, 50, 100, 200)
    x = law.sample(4, 12, generator(0), dtype=torch.float64)
    exact = flow_of(law, x, sde)
    errors = [float((encode(law.as_score(sde), sde, x, num_steps=n) - exact).norm()) for n in steps]
    assert order_of(errors, steps) == pytest.approx(2.0, abs=0.3)


def test_both_ends_come_back_to_third_order():
    law, steps = five_components(), (50, 100, 200)
    x, y = (law.sample(2, 10, generator(seed), dtype=torch.float64) for seed in (0, 1))
    order = assignment(*(encode(law.as_score(SDE), SDE, z, num_steps=400) for z in (x, y)))
    ends = torch.stack((x, y.gather(1, order[..., None].expand_as(y))))
    errors = [
        float((interpolate(law.as_score(SDE), SDE, x, y, WEIGHTS[[0, 2]], num_steps=n) - ends).norm()) for n in steps
    ]
    # Heun's rule has order 2, local error C h^3; the way back has C (-h)^3, so what is left is one order smaller
    assert order_of(errors, steps) == pytest.approx(3.0, abs=0.5)
    assert errors[-1] < 0.02 * float(x.norm())


@pytest.mark.parametrize("matching", ["noise", "data", "none"])
def test_the_path_between_clouds_of_a_gaussian_is_the_closed_form(matching):
    law = ExchangeableGaussian(a=0.3, c=6.0, dim=2)
    x, y = (law.sample(3, 12, generator(seed), dtype=torch.float64) for seed in (0, 1))
    weights = torch.tensor([0.25, 0.5])
    found = interpolate(law.as_score(SDE), SDE, x, y, weights, matching=matching, num_steps=400)
    x_1, y_1 = flow_of(law, x, SDE), flow_of(law, y, SDE)
    if matching != "none":
        order = assignment(x_1, y_1) if matching == "noise" else assignment(x, y)
        y_1 = y_1.gather(1, order[..., None].expand_as(y_1))
    exact = torch.stack([flow_of(law, turned(x_1, y_1, w), SDE, back=True) for w in (0.25, 0.5)])
    # second order at 400 steps: (23 nats / 400)^2 = 3e-3, over the whole of two passes
    assert torch.allclose(found, exact, rtol=0, atol=3e-3)


def test_a_cloud_in_another_order_is_the_same_cloud_all_the_way():
    law = five_components()
    x = law.sample(1, 16, generator(0), dtype=torch.float64)
    y = x[:, torch.randperm(16, generator=generator(1))]
    found = interpolate(law.as_score(SDE), SDE, x, y, WEIGHTS, num_steps=20)
    there_and_back = decode(law.as_score(SDE), SDE, encode(law.as_score(SDE), SDE, x, num_steps=20), num_steps=20)
    assert torch.allclose(found, there_and_back.expand(3, -1, -1, -1), rtol=0, atol=1e-9)
    moved = interpolate(law.as_score(SDE), SDE, x, y, WEIGHTS, num_steps=20, matching="none")
    assert not torch.allclose(moved[1], found[1], atol=0.05)


def test_the_assignment_is_the_best_of_all():
    x, y = (torch.randn(3, 5, 2, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    costs = torch.cdist(x, y).square()
    for b, order in enumerate(assignment(x, y)):
        best = min(sum(float(costs[b, i, p[i]]) for i in range(5)) for p in itertools.permutations(range(5)))
        assert float(costs[b, torch.arange(5), order].sum()) == pytest.approx(best, rel=1e-12)
        assert sorted(order.tolist()) == list(range(5))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_turn_has_constant_speed_and_linear_length(dim):
    x, y = (torch.randn(1, 50, dim, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    unit = lambda z: z / z.norm(dim=-1, keepdim=True)  # noqa: E731
    angle = (unit(x) * unit(y)).sum(dim=-1).arccos()
    for weight in (0.0, 0.2, 0.7, 1.0):
        z = turned(x, y, weight)
        assert torch.allclose(z.norm(dim=-1), (1 - weight) * x.norm(dim=-1) + weight * y.norm(dim=-1), rtol=1e-9)
        # arccos near 1 keeps half of float64's digits
        assert torch.allclose((unit(x) * unit(z)).sum(dim=-1).clamp(-1, 1).arccos(), weight * angle, atol=1e-6)
    assert torch.allclose(turned(x, y, 0.0), x, rtol=1e-12)
    assert torch.allclose(turned(x, y, 1.0), y, rtol=1e-12)


def test_a_turn_without_a_plane_goes_straight():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]], dtype=torch.float64)
    y = torch.tensor([[[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [2.0, 1e-12]]], dtype=torch.float64)
    expected = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)
    assert torch.allclose(turned(x, y, 0.5), expected, rtol=0, atol=1e-11)
    right = turned(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), 0.5)
    assert torch.allclose(right, torch.full((1, 1, 2), math.sqrt(0.5)))


def test_wrong_arguments_are_refused():
    law, x = five_components(), torch.zeros(1, 4, 3)
    run = lambda y=x, weights=WEIGHTS, **options: interpolate(law.as_score(SDE), SDE, x, y, weights, **options)  # noqa: E731
    with pytest.raises(ValueError, match=r"\(1, 4, 3\) and \(1, 5, 3\)"):
        run(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match="from 0 to 1"):
        run(weights=torch.tensor([1.5]))
    with pytest.raises(ValueError, match="got 'nearest'"):
        run(matching="nearest")
    with pytest.raises(ValueError, match=r"torch.int64 \(1, 4, 3\)"):
        encode(law.as_score(SDE), SDE, x.long())
    with pytest.raises(FloatingPointError, match="non-finite"):
        encode(lambda x, t, lengths=None: x * torch.inf, SDE, x + 1)


def test_no_weights_and_no_clouds_are_taken():
    law = five_components()
    for x, weights in ((torch.zeros(2, 4, 3), WEIGHTS[:0]), (torch.zeros(0, 4, 3), WEIGHTS)):
        found = interpolate(law.as_score(SDE), SDE, x, x, weights, num_steps=2)
        assert found.shape == (len(weights), *x.shape)
