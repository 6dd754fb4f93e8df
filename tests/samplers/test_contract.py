import pytest
import torch

from mfcdm.randomness import cloud_generators
from mfcdm.samplers import Geometric, Langevin, LinearNoise, ProbabilityFlow, time_grid
from mfcdm.samplers.base import System
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator, three_shapes

SAMPLERS = [Langevin, LinearNoise, Geometric, ProbabilityFlow]


@pytest.mark.parametrize("grid", ["log_snr", "time", "power"])
@pytest.mark.parametrize("sde", [CosineVPSDE(), VPSDE()], ids=repr)
def test_grids_fall_from_start_to_end(grid, sde):
    times = time_grid(sde, 0.9, sde.t_min, 33, grid)
    assert len(times) == 34
    assert times[0] == 0.9
    assert times[-1] == sde.t_min
    assert bool((times.diff() < 0).all())
    measure = {"log_snr": sde.log_snr(times), "time": times, "power": (-sde.log_snr(times) / 14).exp()}[grid]
    assert torch.allclose(measure.diff(), measure.diff().mean().expand(33), rtol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_padding_never_matters(sampler):
    law, sde, lengths = three_shapes(), CosineVPSDE(), torch.tensor([17, 5])
    noise = torch.randn(2, 17, 3, generator=generator(0), dtype=torch.float64)
    noise[1, 5:] = torch.nan
    arguments = {"center": "mean"} if sampler is not ProbabilityFlow else {}
    method = sampler(num_steps=10, **arguments)
    padded = method.sample(law.as_score(sde), sde, noise, lengths=lengths, generator=cloud_generators(0, [0, 1]))
    alone = method.sample(law.as_score(sde), sde, noise[1:, :5], generator=cloud_generators(0, [1]))
    assert torch.allclose(padded[1, :5], alone[0], rtol=1e-9, atol=1e-9)
    assert not padded[1, 5:].any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_commutes_with_the_order_of_the_particles(sampler):
    law, sde = three_shapes(), CosineVPSDE()
    x_1 = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    noiseless = sampler(num_steps=8, noise=0.0)
    x = noiseless.sample(law.as_score(sde), sde, x_1)
    assert torch.allclose(noiseless.sample(law.as_score(sde), sde, x_1[:, order]), x[:, order], rtol=1e-9, atol=1e-9)


def test_without_noise_the_family_is_one_flow():
    law, sde = five_components(), CosineVPSDE()
    x_1 = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    results = [
        s(num_steps=20, noise=0.0).sample(law.as_score(sde), sde, x_1) for s in (Langevin, LinearNoise, Geometric)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_geometric_noise_changes_no_sign():
    sde = CosineVPSDE()
    g = generator(0)
    y = 0.2 * torch.randn(1, 4096, 1, generator=g, dtype=torch.float64)
    system = System(lambda x, t, lengths=None: x, g, None, None)
    moved = Geometric(num_steps=1).noise_step(y, -y, float(sde.sigma(torch.tensor(0.9))), 4.0, system)
    assert torch.equal(moved.sign(), y.sign())
    assert not torch.allclose(moved, y)


def test_the_end_is_a_denoised_cloud_or_the_state_at_t_end():
    law, sde = five_components(), CosineVPSDE()
    x_1 = torch.randn(1, 64, 3, generator=generator(0))
    calls = []

    def score(x, t, lengths=None):
        calls.append(float(t[0]))
        return law.score(x, t, sde)

    reached = []
    Langevin(num_steps=7).sample(
        score, sde, x_1, generator=generator(1), callback=lambda n, t, x: reached.append((n, t))
    )
    assert len(calls) == 8, "one evaluation a step and one to denoise"
    assert calls[-1] == pytest.approx(sde.t_min)
    assert [n for n, _ in reached] == list(range(1, 8))
    assert reached[-1][1] == sde.t_min
    calls.clear()
    ProbabilityFlow(num_steps=5).sample(score, sde, x_1, t_start=0.8, t_end=0.2)
    assert len(calls) == 10, "Heun takes two evaluations a step, and none is spent on denoising"
    assert max(calls) == pytest.approx(0.8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_particles_keep_their_dtype(dtype):
    law, sde = five_components(), CosineVPSDE()
    for sampler in SAMPLERS:
        x = sampler(num_steps=3).sample(law.as_score(sde), sde, torch.randn(1, 2, 3, dtype=dtype))
        assert x.dtype == dtype


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Langevin(num_steps=0), "num_steps"),
        (lambda: Langevin(noise=-1), "noise"),
        (lambda: Geometric(center="median"), "median"),
        (lambda: LinearNoise(grid="cubic"), "cubic"),
        (lambda: ProbabilityFlow(noise=1.0), "deterministic"),
        (lambda: ProbabilityFlow(method="midpoint"), "midpoint"),
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_bad_runs_are_refused():
    sde, x = CosineVPSDE(), torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"t_start=0\.1, t_end=0\.5"):
        Langevin().sample(lambda x, t, lengths=None: x, sde, x, t_start=0.1, t_end=0.5)
    with pytest.raises(ValueError, match=r"\(B, N, D\)"):
        Langevin().sample(lambda x, t, lengths=None: x, sde, x[0])
    for sampler in (Langevin(), ProbabilityFlow()):  # the second draws nothing
        with pytest.raises(ValueError, match="3 generators were given for 1 clouds"):
            sampler.sample(lambda x, t, lengths=None: x, sde, x, generator=[torch.Generator()] * 3)
    with pytest.raises(FloatingPointError, match="non-finite"):
        Langevin(num_steps=2).sample(lambda x, t, lengths=None: x * torch.nan, sde, x)
