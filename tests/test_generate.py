import pytest
import torch

from mfcdm.branching import Renoise
from mfcdm.generate import generate, generate_from_score, share_steps
from mfcdm.networks import ScoreNetwork
from mfcdm.samplers import Geometric, Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from tests.laws import generator, shape_error, three_shapes

SDE = CosineVPSDE()


def tiny_network(**options):
    torch.manual_seed(0)
    return ScoreNetwork(width=16, depth=2, num_moments=4, num_scales=2, channels=4, **options)


@pytest.mark.parametrize("requested", [3, 64, 100, 256, 300, 1000])
def test_every_cardinality_follows_the_law(requested):
    law, levels = three_shapes(), Subdivision.dyadic(256, 3, sde=SDE)
    x = generate_from_score(
        law.as_score(SDE), SDE, Langevin(num_steps=150), levels, Renoise(), dim=3, num_clouds=24,
        num_particles=requested, generator=generator(0),
    )  # fmt: skip
    assert x.shape == (24, requested, 3)
    floors = torch.tensor([shape_error(law.sample(24, requested, generator(s)), law, seed=s + 9) for s in range(6)])
    # branching leaves some correlation between copies of a parent: up to 1.25x, see benchmarks/branching.py
    assert shape_error(x, law, seed=77) < 1.25 * floors.mean() + 4 * floors.std()


def test_a_cloud_does_not_depend_on_the_batch():
    network, levels = tiny_network(), Subdivision.dyadic(32, 2, sde=SDE)
    make = lambda **how: generate(  # noqa: E731
        network, SDE, Geometric(num_steps=6), levels, Renoise(), num_particles=40, seed=3, **how
    )
    together, apart = make(num_clouds=5, batch_size=5), make(num_clouds=5, batch_size=2)
    # float32, whose matrix products round differently in larger batches; near t = 1 a rounding is divided by
    # alpha(1) = 1/148, and an untrained network passes it on: 1e-7 x 148 x 3 x a few tens
    assert torch.allclose(together, apart, atol=2e-3)
    assert torch.allclose(make(num_clouds=2, first_index=3), together[3:], atol=2e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_generation_counts_its_steps_and_leaves_the_network_as_it_was():
    network, seen = tiny_network().train(), []
    levels = Subdivision.dyadic(16, 3, sde=SDE)
    generate(network, SDE, Langevin(num_steps=9), levels, Renoise(), num_clouds=3, num_particles=16, batch_size=2,
             progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert [done for done, _ in seen] == list(range(1, 19))
    assert {total for _, total in seen} == {18}
    assert network.training


def test_labels_reach_their_clouds():
    network, levels = tiny_network(num_classes=2), Subdivision([8], [1.0])
    make = lambda label: generate(  # noqa: E731
        network, SDE, Langevin(num_steps=4), levels, Renoise(), num_clouds=2, num_particles=8, label=label, batch_size=1
    )
    first, second = make(torch.tensor([0, 1])), make(torch.tensor([0, 0]))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


class Formula(torch.nn.Module):
    """A network without weights: v = 0, as for data of the law N(0, I)."""

    dim = 2

    def forward(self, x, t, lengths=None, label=None):
        return torch.zeros_like(x)


def test_a_network_without_weights_generates():
    levels = Subdivision([64, 256], [1.0, 0.4])
    x = generate(Formula(), SDE, Langevin(num_steps=20), levels, Renoise(), num_clouds=16, num_particles=256)
    assert (x.shape, x.dtype) == ((16, 256, 2), torch.get_default_dtype())
    # Variance 1 from 4,096 points in 2 coordinates, correlated in fours by branching: 5 standard errors.
    assert abs(float(x.var()) - 1) < 5 * (2 * 4 / x.numel()) ** 0.5


def test_steps_are_shared_out_by_log_snr_and_late_with_at_least_one_a_level():
    starts, ends = [1.0, 0.5, 0.3], [0.4, 0.25, SDE.t_min]
    log_snr = SDE.log_snr(torch.tensor([starts, ends], dtype=torch.float64))
    spans = (log_snr[1] - log_snr[0]) * torch.tensor([1.0, 1.5, 2.0])
    for num_steps in (3, 10, 101):
        steps = share_steps(num_steps, starts, ends, SDE)
        assert sum(steps) == num_steps
        assert min(steps) >= 1
        ideal = 1 + (num_steps - 3) * spans / spans.sum()
        assert torch.allclose(torch.tensor(steps, dtype=torch.float64), ideal, rtol=0, atol=1)
    assert share_steps(7, [1.0], [SDE.t_min], SDE) == [7]
    with pytest.raises(ValueError, match="num_steps=2 is too few for 3 levels"):
        share_steps(2, starts, ends, SDE)


def test_wrong_arguments_are_refused():
    network, levels = tiny_network(), Subdivision([8], [1.0])
    with pytest.raises(ValueError, match="num_clouds"):
        generate(network, SDE, Langevin(), levels, Renoise(), num_clouds=0, num_particles=8)
    with pytest.raises(ValueError, match="num_particles must be a whole number >= 1, got 0"):
        generate(network, SDE, Langevin(), levels, Renoise(), num_clouds=1, num_particles=0)
    with pytest.raises(ValueError, match=r"num_particles must be a whole number >= 1, got 2\.5"):
        generate(network, SDE, Langevin(), levels, Renoise(), num_clouds=1, num_particles=2.5)
    with pytest.raises(ValueError, match="Identity needs an attribute `dim`, the particles' dimension, got None"):
        generate(torch.nn.Identity(), SDE, Langevin(), levels, Renoise(), num_clouds=1, num_particles=8)
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs labels"):
        generate(network, SDE, Langevin(), levels, Renoise(), num_clouds=1, num_particles=8, guidance=2.0)
    with pytest.raises(ValueError, match=r"labels must be \(2,\)"):
        generate(network, SDE, Langevin(), levels, Renoise(), num_clouds=2, num_particles=8, label=torch.zeros(3))
