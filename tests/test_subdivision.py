import math

import pytest
import torch

from mfcdm.sde import VPSDE, CosineVPSDE
from mfcdm.subdivision import Subdivision


def snr(sde, t: float) -> float:
    return math.exp(float(sde.log_snr(torch.tensor(t, dtype=torch.float64))))


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=repr)
@pytest.mark.parametrize("ratio", [2, 3])
def test_snr_spacing_lets_the_signal_grow_with_the_cardinality(sde, ratio):
    levels = Subdivision.dyadic(2 * ratio**4, 5, ratio=ratio, spacing="snr", sde=sde)
    assert levels.cardinalities == tuple(2 * ratio**k for k in range(5))
    assert levels.times[0] == 1.0
    for n, t in zip(levels.cardinalities[1:], levels.times[1:], strict=True):
        assert snr(sde, t) == pytest.approx(10 * n / levels.cardinalities[-1], rel=1e-9)


def test_time_spacing_is_uniform_down_to_t_min():
    sde = CosineVPSDE(t_min=0.01)
    levels = Subdivision.dyadic(64, 3, spacing="time", sde=sde)
    lengths = [begin - end for end, begin in (levels.interval(k, sde.t_min) for k in range(3))]
    assert lengths == pytest.approx([0.33] * 3)
    assert levels.interval(2, sde.t_min)[0] == sde.t_min


def test_every_time_belongs_to_the_level_whose_interval_holds_it():
    levels = Subdivision([4, 8, 16], [1.0, 0.5, 0.25])
    assert [levels.level_of(t) for t in (1.0, 0.51, 0.5, 0.26, 0.25, 0.01)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="got 0"):
        levels.level_of(0.0)


def test_bound_weights_have_the_papers_shape():
    levels = Subdivision([4, 8, 16], [1.0, 0.5, 0.25])
    raw = [1.0, (2 * math.sqrt(16)) ** -1, (2 * math.sqrt(32)) ** -2]
    assert levels.level_weights("bound") == pytest.approx([w / sum(raw) for w in raw])
    assert levels.level_weights() == pytest.approx([1 / 3] * 3)


def test_cost_weights_have_the_least_error_at_a_given_cost():
    levels = Subdivision([4, 16, 128], [1.0, 0.5, 0.25])
    n = torch.tensor(levels.cardinalities, dtype=torch.float64)
    best = torch.tensor(levels.level_weights("cost"), dtype=torch.float64)
    assert float(best.sum()) == pytest.approx(1.0)

    def error(shares: torch.Tensor) -> float:
        steps = shares / (shares * n).sum()  # a unit of cost buys so many
        return float((1 / steps).sum())

    for shares in torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        assert error(best) <= error(shares / shares.sum()) + 1e-9


@pytest.mark.parametrize("requested", [1, 3, 64, 65, 100, 200, 511, 512, 513, 5000, 1_000_000])
def test_any_cardinality_can_be_requested(requested):
    trained = Subdivision.dyadic(512, 4)
    levels = trained.for_cardinality(requested)
    assert levels.times == trained.times
    assert levels.cardinalities[-1] == max(requested, 64)
    # no level has fewer particles, for the cloud that it leads to, than the trained one
    for n, n_trained in zip(levels.cardinalities, trained.cardinalities, strict=True):
        assert n / levels.cardinalities[-1] >= n_trained / 512
        assert n >= min(n_trained, max(requested, 64))


def test_one_level_stays_one_level():
    assert Subdivision([512], [1.0]).for_cardinality(4096) == Subdivision([4096], [1.0])


@pytest.mark.parametrize(
    ("cardinalities", "times", "sentence"),
    [
        ([], [], "at least one"),
        ([4, 8], [1.0], "as many times"),
        ([8, 4], [1.0, 0.5], "never fall"),
        ([0], [1.0], ">= 1"),
        ([4, 8], [0.9, 0.5], "begin at 1.0"),
        ([4, 8], [1.0, 1.0], "decrease"),
        ([4, 8], [1.0, -0.1], "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(cardinalities, times, sentence):
    with pytest.raises(ValueError, match=sentence):
        Subdivision(cardinalities, times)


def test_levels_that_do_not_fit_the_schedule_are_refused():
    with pytest.raises(ValueError, match="too many for spacing 'snr'"):
        Subdivision.dyadic(2**20, 20)
    with pytest.raises(ValueError, match="at least 8 particles"):
        Subdivision.dyadic(7, 4)
    with pytest.raises(ValueError, match="at most 64, got 1000000000"):
        Subdivision.dyadic(7, 10**9)  # 2^(10^9) would take minutes to write down
    with pytest.raises(ValueError, match="'snr' or 'time'"):
        Subdivision.dyadic(8, 2, spacing="log")
    with pytest.raises(ValueError, match="not above t_min"):
        Subdivision([4, 8], [1.0, 0.001]).interval(0, 0.001)
