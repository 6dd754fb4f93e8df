import math

import numpy as np
import pytest
import torch

from mfcdm.analytic import ExchangeableGaussian, GaussianMixture, ShapeMixture
from mfcdm.evaluation.chaos import coupled_gaps, pair_correlation, score_errors
from mfcdm.networks import ScoreNetwork, as_score
from mfcdm.sde import CosineVPSDE

SDE = CosineVPSDE()
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(gaps):
    return np.polyfit([math.log(g.num_particles) for g in gaps], [math.log(g.gap) for g in gaps], 1)[0]


def test_the_gap_of_an_interacting_gaussian_falls_as_the_root_of_n():
    # the interaction is c_t / (a_t (a_t + c_t)) mean(x), and the means of N and 64 N particles differ by N^(-1/2)
    law, counts = ExchangeableGaussian(a=0.5, c=4.0), (4, 8, 16, 32)
    x_0 = law.sample(64, 64 * 32, generator(), dtype=DOUBLE)
    gaps = coupled_gaps(law.as_score(SDE), SDE, x_0, counts, num_steps=20, generator=generator(1))
    assert [gap.num_particles for gap in gaps] == list(counts)
    # 64 clouds know a gap to 5 %, so a slope over a factor of 8 to 0.05
    assert slope(gaps) == pytest.approx(-0.5, abs=0.1)
    assert gaps[-1].gap < gaps[-1].spread / 2  # measured: 0.37


def test_particles_that_do_not_interact_have_no_gap():
    law = GaussianMixture(torch.randn(3, 2, generator=generator()), 0.2)
    x_0 = law.sample(4, 32, generator(), dtype=DOUBLE)
    for noise in (0.0, 1.0):
        gaps = coupled_gaps(
            law.as_score(SDE), SDE, x_0, (2, 8), ratio=4, num_steps=5, noise=noise, generator=generator(1)
        )
        assert all(gap.gap == pytest.approx(0, abs=1e-12) for gap in gaps)
        assert all(gap.spread > 0.1 for gap in gaps)


def test_the_gap_of_one_step_by_hand():
    law = ExchangeableGaussian(a=1.0, c=3.0, dim=1)
    x_0 = law.sample(1, 4, generator(), dtype=DOUBLE)
    (gap,) = coupled_gaps(law.as_score(SDE), SDE, x_0, (1,), ratio=4, num_steps=1, t_start=0.6, t_end=0.5, noise=0.0)
    assert gap.gap > 0
    # the same noise again, and the step written out
    torch.manual_seed(0)
    (gap,) = coupled_gaps(law.as_score(SDE), SDE, x_0, (1,), ratio=4, num_steps=1, t_start=0.6, t_end=0.5, noise=0.0)
    torch.manual_seed(0)
    t = torch.tensor([0.6], dtype=DOUBLE)
    x = SDE.alpha(t) * x_0 + SDE.sigma(t) * torch.randn(1, 4, 1, dtype=DOUBLE)
    _, b = law.coefficients(t, SDE)
    difference = SDE.beta(t) / 2 * 0.1 * b * (x[0, 0, 0] - x.mean())
    assert gap.gap == pytest.approx(abs(float(difference)), rel=1e-6)


def test_a_network_is_coupled_too():
    network = ScoreNetwork()
    x_0 = torch.randn(2, 16, 3, generator=generator())
    gaps = coupled_gaps(as_score(network.eval(), SDE), SDE, x_0, (2, 4), ratio=4, num_steps=2, generator=generator(1))
    assert all(math.isfinite(gap.gap) for gap in gaps)


@pytest.mark.parametrize(("a", "c"), [(1.0, 0.0), (0.5, 20.0), (1.0, -0.9)])
def test_the_correlation_of_an_exchangeable_gaussian(a, c):
    count, clouds = 10, 4000
    x = ExchangeableGaussian(a, c).sample(clouds, count, generator(), dtype=DOUBLE)
    # Cov = c / N of Var = a + c / N; 3 D (B - 1) squares know M_b to 1.3 %, four times that
    expected = (c / count) / (a + c / count)
    tolerance = 0.052 * (a + c) / (a * count + c)
    assert pair_correlation(x) == pytest.approx(expected, abs=tolerance)


def test_the_correlation_is_conditional_on_the_shape():
    shapes = [GaussianMixture(torch.full((1, 3), place), 0.3) for place in (-1.0, 1.0)]
    x = torch.cat([shape.sample(200, 8, generator(index), dtype=DOUBLE) for index, shape in enumerate(shapes)])
    shape = torch.arange(2).repeat_interleave(200)
    assert pair_correlation(x) > 0.8  # what they form together
    assert abs(pair_correlation(x, shape)) < 4 * math.sqrt(2 / (3 * 398)) / 8
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2), value=torch.nan)
    assert pair_correlation(padded, shape, torch.full((400,), 8)) == pair_correlation(x, shape)


def test_copies_are_perfectly_correlated():
    x = torch.randn(20, 1, 3, generator=generator()).expand(-1, 5, -1)
    assert pair_correlation(x) == pytest.approx(1.0, rel=1e-12)


def test_the_error_of_a_scaled_score_is_exact():
    law = ShapeMixture([GaussianMixture(torch.randn(2, 3, generator=generator(i)), 0.2) for i in range(2)])
    exact = law.as_score(SDE)
    rows = score_errors(lambda x, t: 1.1 * exact(x, t), law, SDE, (4, 16), (-2.0, 0.0, 3.0), generator=generator())
    assert [(row.num_particles, row.log_snr) for row in rows] == [(n, s) for n in (4, 16) for s in (-2.0, 0.0, 3.0)]
    assert all(row.relative == pytest.approx(0.01, rel=1e-4) for row in rows)
    assert all(row.relative == 0 for row in score_errors(exact, law, SDE, (4,), (0.0,), generator=generator()))


def test_an_error_of_the_noise_is_measured_in_noise():
    law = ExchangeableGaussian()
    exact = law.as_score(SDE)

    def off(x, t):
        return exact(x, t) + 0.3 / SDE.sigma(t)[:, None, None]

    (row,) = score_errors(off, law, SDE, (8,), (1.0,), generator=generator())
    assert row.noise_error == pytest.approx(0.09, rel=1e-4)


def test_what_makes_no_sense_is_refused():
    law = ExchangeableGaussian()
    x_0 = law.sample(2, 64, generator())
    with pytest.raises(ValueError, match=r"M >= 128, 64 times the largest N, but has shape \(2, 64, 3\)"):
        coupled_gaps(law.as_score(SDE), SDE, x_0, (1, 2))
    with pytest.raises(ValueError, match="ratio >= 2"):
        coupled_gaps(law.as_score(SDE), SDE, x_0, (1,), ratio=1)
    with pytest.raises(ValueError, match="a pair needs two particles"):
        pair_correlation(x_0[:, :1])
    with pytest.raises(ValueError, match="two clouds of one shape"):
        pair_correlation(x_0, torch.arange(2))
    with pytest.raises(ValueError, match="all particles coincide"):
        pair_correlation(torch.zeros(3, 4, 3))
    with pytest.raises(ValueError, match="one cardinality"):
        pair_correlation(x_0, lengths=torch.tensor([64, 32]))
    with pytest.raises(ValueError, match="does not reach a log-SNR of 1000"):
        score_errors(law.as_score(SDE), law, SDE, (2,), (1000.0,))
