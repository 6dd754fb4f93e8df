import math

import pytest
import torch

from mfcdm.analytic import ExchangeableGaussian
from mfcdm.likelihood import chaotic_entropy, log_likelihood
from mfcdm.networks import ScoreNetwork, as_score
from mfcdm.randomness import cloud_generators
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator, three_shapes

SDE = CosineVPSDE()
# a step's tolerance of 1e-5 nats per point, over about 100 steps
FLOW_ERROR = 1e-3


def from_exact_end(found, law):
    """Nats per point with the exact law of x_1 in place of N(0, I), which differs by alpha(1) |x_0| = 0.01 a point."""
    normal = -0.5 * (found.x_1.square() + math.log(2 * math.pi)).sum(dim=(1, 2))
    exact = law.log_prob(found.x_1, torch.ones(len(found.x_1), dtype=found.x_1.dtype), SDE)
    return found.per_point + (exact - normal) / found.x_1.shape[1]


def noised(law, num_clouds, num_particles, sde=SDE, t=None, seed=0):
    """Clouds at time t, float64, and their exact log-density per point."""
    t = torch.full((num_clouds,), sde.t_min if t is None else t, dtype=torch.float64)
    mean, std = sde.marginal(law.sample(num_clouds, num_particles, generator(seed), dtype=torch.float64), t)
    x = mean + std[:, None, None] * torch.randn(mean.shape, generator=generator(seed + 1), dtype=torch.float64)
    return x, law.log_prob(x, t, sde) / num_particles


@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=["cosine", "linear"])
@pytest.mark.parametrize(("num_particles", "options"), [(64, {"divergence": "exact"}), (1024, {})])
def test_an_interacting_gaussian_has_its_likelihood_within_a_hundredth_of_a_nat(sde, num_particles, options):
    law = ExchangeableGaussian(a=0.5, c=4.0, dim=1)
    x, exact = noised(law, 1, num_particles, sde)
    found = log_likelihood(law.as_score(sde), sde, x, generator=cloud_generators(0, range(1)), **options)
    # N(0, I) in place of the law of x_1 costs alpha(1) |x_0| / sqrt(N) = 0.001 nats, four probes at 1,024 points 0.001
    assert torch.allclose(found.per_point, exact, rtol=0, atol=0.01)
    assert float(found.standard_error.max()) < 0.002
    assert torch.equal(found.log_likelihood, found.per_point * num_particles)


@pytest.mark.parametrize("t", [None, 0.3])
@pytest.mark.parametrize("method", ["RK45", "DOP853"])
def test_probes_along_the_axes_are_exact_where_particles_do_not_interact(t, method):
    law = five_components()
    x, exact = noised(law, 2, 64, t=t)
    options = {"divergence": "axes", "num_probes": 2, "method": method}
    found = log_likelihood(law.as_score(SDE), SDE, x, t=t, generator=generator(0), **options)
    assert torch.allclose(from_exact_end(found, law), exact, rtol=0, atol=FLOW_ERROR)
    assert float(found.standard_error.max()) < 1e-9


def test_an_interaction_that_saturates_has_its_likelihood():
    law = three_shapes()
    x, exact = noised(law, 2, 8)
    found = log_likelihood(law.as_score(SDE), SDE, x, divergence="exact")
    assert torch.allclose(from_exact_end(found, law), exact, rtol=0, atol=FLOW_ERROR)
    assert not found.standard_error.any()


def test_the_error_falls_with_the_tolerance():
    law = five_components()
    x, _ = noised(law, 1, 16)

    def nats(tolerance):
        options = {"divergence": "axes", "num_probes": 1, "rtol": tolerance, "atol": tolerance}
        found = log_likelihood(law.as_score(SDE), SDE, x, generator=generator(0), **options)
        return float(found.per_point), int(found.evaluations)

    tolerances, exact = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7], nats(1e-9)[0]
    found = [nats(tolerance) for tolerance in tolerances]
    errors, evaluations = [abs(value - exact) for value, _ in found], [count for _, count in found]
    logs = torch.tensor([tolerances, errors], dtype=torch.float64).log10()
    slope = float(torch.linalg.lstsq(torch.stack([logs[0], torch.ones(5).double()], 1), logs[1, :, None]).solution[0])
    # a rule of order 5 whose error estimate has order 4: as the tolerance or better, up to luck
    assert 0.7 < slope < 2.0
    assert evaluations == sorted(evaluations)


def test_the_noise_is_that_of_the_closed_form():
    law = ExchangeableGaussian(a=0.5, c=4.0)
    x, _ = noised(law, 2, 16)
    found = log_likelihood(law.as_score(SDE), SDE, x, divergence="exact", rtol=1e-8, atol=1e-8)
    ends = torch.tensor([SDE.t_min, 1.0], dtype=torch.float64)
    alone = SDE.alpha(ends) ** 2 * law.a + SDE.sigma(ends) ** 2  # variances of a deviation and, below, of the shift
    common = alone + SDE.alpha(ends) ** 2 * law.c
    mean = x.mean(dim=1, keepdim=True)
    expected = (alone[1] / alone[0]).sqrt() * (x - mean) + (common[1] / common[0]).sqrt() * mean
    assert torch.allclose(found.x_1, expected, rtol=0, atol=1e-6)


def test_the_standard_error_is_that_of_the_estimates():
    law = five_components()
    x, exact = noised(law, 24, 8)
    options = {"num_probes": 8, "rtol": 1e-3, "atol": 1e-3}
    found = log_likelihood(law.as_score(SDE), SDE, x, generator=cloud_generators(1, range(24)), **options)
    ratio = (found.per_point - exact).square().mean() / found.standard_error.square().mean()
    # of 24 clouds the ratio scatters by sqrt(2 / 24) = 0.29, more as clouds differ in their errors
    assert 0.2 < float(ratio) < 2.6


def test_a_network_gets_the_same_likelihood_by_probes_as_exactly():
    torch.manual_seed(0)
    network = ScoreNetwork(width=16, depth=1, num_moments=4, num_scales=2, channels=4).double().eval()
    for parameter in network.parameters():  # a fresh network's last layer is 0
        parameter.data += 0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator(2))
    score, x = as_score(network, SDE), torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    options = {"t": 0.9, "rtol": 1e-3, "atol": 1e-3}
    exact = log_likelihood(score, SDE, x, divergence="exact", **options)
    probed = log_likelihood(score, SDE, x, generator=generator(1), num_probes=16, **options)
    # both paths keep to a tolerance of 1e-3 a step, about 10 steps
    assert abs(float(probed.per_point - exact.per_point)) < 4.5 * float(probed.standard_error) + 0.01
    assert exact.per_point.isfinite().all()


def test_a_cloud_does_not_depend_on_the_batch_or_on_padding():
    law, lengths = three_shapes(), torch.tensor([7, 4, 9])
    x = law.sample(3, 9, generator(0), dtype=torch.float64)
    x[0, 7:], x[1, 4:] = math.nan, math.inf
    run = lambda x, indices, **options: log_likelihood(  # noqa: E731
        law.as_score(SDE), SDE, x, generator=cloud_generators(3, indices), num_probes=2, rtol=1e-3, **options
    )
    together = run(x, range(3), lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = run(x[b : b + 1, :length], [b])
        assert torch.equal(alone.per_point, together.per_point[b : b + 1])
        assert torch.equal(alone.x_1[0], together.x_1[b, :length])
        assert not together.x_1[b, length:].any()


def test_single_precision_in_single_precision_out():
    law = five_components()
    x, exact = noised(law, 1, 16)
    found = log_likelihood(law.as_score(SDE), SDE, x.float(), divergence="axes", num_probes=1, generator=generator(0))
    assert found.per_point.dtype == torch.float32
    assert torch.isinf(found.standard_error).all()  # a single probe says nothing of its error
    # float32 scores of size 1 / sigma(t_min) = 640 carry relative errors of 6e-8
    # and N(0, I) stands for the law of x_1: alpha(1) |x_0| / sqrt(16) = 0.003 nats a point
    assert torch.allclose(found.per_point.double(), exact, rtol=0, atol=0.01)


def entropy_of_product(law, num_particles):
    """(1/N) KL of an exchangeable Gaussian at t = 0 to the product of its one-particle laws, and that product."""
    a, c, n = law.a, law.c, num_particles
    product = ExchangeableGaussian(a + c / n, 0.0, law.dim)
    return law.dim / (2 * n) * (n * math.log(a + c / n) - (n - 1) * math.log(a) - math.log(a + c)), product


@pytest.mark.parametrize("num_particles", [4, 64])
def test_chaotic_entropy_is_the_closed_form_of_gaussians(num_particles):
    law = ExchangeableGaussian(a=0.5, c=8.0, dim=2)
    exact, product = entropy_of_product(law, num_particles)
    x = law.sample(4000, num_particles, generator(0), dtype=torch.float64)
    found = chaotic_entropy(law.log_prob(x), product.log_prob(x), num_particles)
    assert abs(found.value - exact) < 4.5 * found.standard_error
    assert found.standard_error < 0.1 * exact


def test_chaotic_entropy_vanishes_where_chaos_propagates():
    weak, strong = ([], [])
    for n in (16, 256):
        weak.append(entropy_of_product(ExchangeableGaussian(0.5, 4.0), n)[0])
        strong.append(entropy_of_product(ExchangeableGaussian(0.5, 0.25 * n), n)[0])
    assert weak[1] < weak[0] / 8  # as 1 / N, up to a logarithm
    assert strong[1] > strong[0]


def test_chaotic_entropy_measures_what_a_model_lacks():
    """A model of the wrong interaction, known by its score alone, against KL of two Gaussians."""
    law, model, n, clouds = ExchangeableGaussian(0.5, 8.0, 1), ExchangeableGaussian(0.7, 1.0, 1), 6, 64
    x, exact = noised(law, clouds, n)
    nats = log_likelihood(model.as_score(SDE), SDE, x, divergence="exact", rtol=1e-4, atol=1e-4).log_likelihood
    found = chaotic_entropy(n * exact, nats, n)
    alpha, sigma = (float(f(torch.tensor(SDE.t_min))) for f in (SDE.alpha, SDE.sigma))
    p = [alpha**2 * (law.a + k) + sigma**2 for k in (0.0, law.c)]
    q = [alpha**2 * (model.a + k) + sigma**2 for k in (0.0, model.c)]
    terms = [0.5 * (u / v - 1 - math.log(u / v)) for u, v in zip(p, q, strict=True)]
    assert abs(found.value - ((n - 1) * terms[0] + terms[1]) / n) < 4.5 * found.standard_error
    # cloud by cloud the flow agrees with the model's own density
    t = torch.full((clouds,), SDE.t_min, dtype=torch.float64)
    # (N(0, I) for the law of x_1: alpha(1) |x_0| / sqrt(6) = 0.003 nats a point, here the largest of 64 clouds)
    assert torch.allclose(nats / n, model.log_prob(x, t, SDE) / n, rtol=0, atol=0.02)


def test_wrong_arguments_are_refused():
    law, x = five_components(), torch.zeros(2, 4, 3, dtype=torch.float64)
    run = lambda x=x, score=None, **options: log_likelihood(score or law.as_score(SDE), SDE, x, **options)  # noqa: E731
    for options, message in (
        ({"t": 1.0}, "got 1.0"),
        ({"divergence": "trace"}, "got 'trace'"),
        ({"method": "BDF"}, "got 'BDF'"),
        ({"num_probes": 0}, "got 0"),
        ({"rtol": 0.0}, "got 0.0 and"),
        ({"lengths": torch.tensor([4, 0])}, r"\[4, 0\]"),
        ({"generator": cloud_generators(0, range(3))}, "3 generators were given for 2 clouds"),
        ({"x": torch.zeros(1, 0, 3)}, r"\(1, 0, 3\)"),
        ({"x": torch.full((1, 2, 3), torch.inf)}, "got a coordinate inf"),
        ({"score": lambda x, t, lengths=None: -x.detach()}, "keeps no gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
    with pytest.raises(FloatingPointError, match="not finite at t"):
        run(score=lambda x, t, lengths=None: x / 0)
    with pytest.raises(ValueError, match="one log-density a cloud"):
        chaotic_entropy(torch.zeros(3), torch.zeros(2), 4)
    with pytest.raises(ValueError, match="two clouds"):
        chaotic_entropy(torch.zeros(1), torch.zeros(1), 4)
    with pytest.raises(ValueError, match="got log p - log q = inf"):
        chaotic_entropy(torch.tensor([0.0, torch.inf]), torch.zeros(2), 4)


def test_a_score_that_does_not_depend_on_the_particles_is_refused():
    weight = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="differentiable in x"):
        log_likelihood(lambda x, t, lengths=None: weight * torch.ones_like(x), CosineVPSDE(), torch.randn(1, 4, 3))
