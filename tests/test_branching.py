import math

import pytest
import torch

from mfcdm.branching import Renoise, branched
from mfcdm.randomness import cloud_generators
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator, pooled_error


def test_the_pushed_time_has_a_log_snr_lower_by_the_push():
    for sde in (CosineVPSDE(), VPSDE()):
        pushed = Renoise(1.4).pushed_time(0.3, sde)
        before, after = sde.log_snr(torch.tensor([0.3, pushed], dtype=torch.float64)).tolist()
        assert before - after == pytest.approx(1.4, abs=1e-9)
        assert Renoise(100.0).pushed_time(0.3, sde) == pytest.approx(1.0, rel=1e-12)
        assert Renoise(0.0).pushed_time(0.3, sde) == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("num_particles", [16, 33, 64])
def test_branching_keeps_the_law_of_one_particle(num_particles):
    law, sde, t = five_components(), CosineVPSDE(), 0.4
    time = torch.full((4096,), t, dtype=torch.float64)
    x_0 = law.sample(4096, 16, generator(0), dtype=torch.float64)
    mean, std = sde.marginal(x_0, time)
    x_t = mean + std[:, None, None] * torch.randn(x_0.shape, generator=generator(1), dtype=torch.float64)
    branched_x, pushed = Renoise(1.4).branch(x_t, t, sde, num_particles, generator(2))
    one_a_cloud = branched_x[:, 0]  # particles of one cloud are not independent, those of different clouds are

    def fresh(seed: int) -> torch.Tensor:
        later = torch.full((4096,), pushed, dtype=torch.float64)
        mean, std = sde.marginal(law.sample(4096, 1, generator(seed), dtype=torch.float64), later)
        return mean + std[:, None, None] * torch.randn(mean.shape, generator=generator(seed + 1), dtype=torch.float64)

    floors = torch.tensor([pooled_error(fresh(s), fresh(s + 50)) for s in range(10, 30, 2)])
    error = pooled_error(one_a_cloud[:, None], fresh(90))
    assert error < floors.mean() + 4 * floors.std(), "a fresh sample would lie above this once in 30,000 times"


def test_copies_of_one_parent_have_the_correlation_of_the_forward_kernel():
    sde, t = CosineVPSDE(), 0.4
    x_t = torch.randn(20000, 1, 1, generator=generator(0), dtype=torch.float64)
    copies, pushed = Renoise(1.4).branch(x_t, t, sde, 2, generator(1))
    ratio = float(sde.alpha(torch.tensor(pushed).double()) / sde.alpha(torch.tensor(t).double()))
    correlation = float(torch.corrcoef(copies[..., 0].T)[0, 1])
    assert correlation == pytest.approx(ratio**2, abs=4 / math.sqrt(20000))  # x_t has variance 1: so r^2


@pytest.mark.parametrize(("parents", "children"), [(1, 7), (4, 4), (4, 8), (4, 9), (5, 3), (17, 129)])
def test_every_parent_has_at_most_ceil_copies(parents, children):
    x = torch.arange(parents, dtype=torch.float64)[None, :, None].expand(2, -1, 3)
    kept = branched(x, children, generator(0))
    assert kept.shape == (2, children, 3)
    counts = torch.bincount(kept[0, :, 0].long(), minlength=parents)
    assert int(counts.max()) <= math.ceil(children / parents)
    assert int(counts.sum()) == children


def test_a_cloud_branches_the_same_in_every_batch():
    x, sde = torch.randn(3, 5, 3, generator=generator(0)), CosineVPSDE()
    whole, _ = Renoise().branch(x, 0.4, sde, 12, cloud_generators(1, range(3)))
    alone, _ = Renoise().branch(x[2:], 0.4, sde, 12, cloud_generators(1, [2]))
    assert torch.equal(whole[2:], alone)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="got -1"):
        Renoise(-1)
    with pytest.raises(ValueError, match="0 -> 4"):
        branched(torch.zeros(1, 0, 3), 4)
