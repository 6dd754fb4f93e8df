from functools import partial

import pytest
import torch

from mfcdm.build import build
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import (
    DPMSolver,
    Geometric,
    Langevin,
    LinearNoise,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    UnderdampedLangevin,
    time_grid,
)
from mfcdm.samplers.base import System
from mfcdm.sde import VPSDE, CosineVPSDE
from tests.laws import five_components, generator, three_shapes


def named(name, make, **options):
    made = partial(make, **options)
    made.__name__ = name
    return made


SAMPLERS = [
    Langevin,
    LinearNoise,
    Geometric,
    ProbabilityFlow,
    DPMSolver,
    UnderdampedLangevin,
    PredictorCorrector,
    named("isotropic linear noise", LinearNoise, form="isotropic"),
    named("isotropic geometric", Geometric, form="isotropic"),
    named("Langevin, constant", Langevin, noise_schedule="constant", noise_until=0.05),
    named("Langevin, sigma", Langevin, noise_schedule="sigma"),
    named("underdamped corrector", PredictorCorrector, corrector="underdamped", num_corrections=2),
    named("geometric, corrected", PredictorCorrector, predictor="geometric", num_corrections=2),
    named("kinetic, corrected", PredictorCorrector, predictor=UnderdampedLangevin(friction=1.0, center="mean")),
]
NAMES = [sampler.__name__ for sampler in SAMPLERS]


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


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_padding_never_matters(sampler):
    law, sde, lengths = three_shapes(), CosineVPSDE(), torch.tensor([17, 5])
    noise = torch.randn(2, 17, 3, generator=generator(0), dtype=torch.float64)
    noise[1, 5:] = torch.nan
    method = sampler(num_steps=10, center="mean")
    padded = method.sample(law.as_score(sde), sde, noise, lengths=lengths, generator=cloud_generators(0, [0, 1]))
    alone = method.sample(law.as_score(sde), sde, noise[1:, :5], generator=cloud_generators(0, [1]))
    assert torch.allclose(padded[1, :5], alone[0], rtol=1e-9, atol=1e-9)
    assert not padded[1, 5:].any()


@pytest.mark.parametrize("sampler", SAMPLERS[:-1], ids=NAMES[:-1])  # the last one's predictor has noise of its own
def test_a_sampler_commutes_with_the_order_of_the_particles(sampler):
    law, sde = three_shapes(), CosineVPSDE()
    x_1 = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    noiseless = sampler(num_steps=8, noise=0.0)
    x = noiseless.sample(law.as_score(sde), sde, x_1)
    assert torch.allclose(noiseless.sample(law.as_score(sde), sde, x_1[:, order]), x[:, order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_a_cloud_does_not_depend_on_its_batch(sampler):
    law, sde = three_shapes(), CosineVPSDE()
    x_1 = torch.randn(3, 9, 3, generator=generator(0), dtype=torch.float64)
    x_1[1] *= 5  # a step size taken from the batch would pass this on
    method, score = sampler(num_steps=10, center="mean"), law.as_score(sde)
    together = method.sample(score, sde, x_1, generator=cloud_generators(0, [0, 1, 2]))
    alone = method.sample(score, sde, x_1[2:], generator=cloud_generators(0, [2]))
    assert torch.allclose(together[2:], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_every_sampler_runs_between_any_two_times(sampler):
    law, sde = five_components(), CosineVPSDE()
    x, reached = torch.randn(1, 8, 3, generator=generator(0)), []
    y = sampler(num_steps=4).sample(
        law.as_score(sde), sde, x, t_start=0.8, t_end=0.3, generator=generator(1),
        callback=lambda n, t, x: reached.append((n, round(t, 6), x)),
    )  # fmt: skip
    assert [n for n, _, _ in reached] == [1, 2, 3, 4]
    assert reached[-1][1] == 0.3
    assert torch.equal(reached[-1][2], y)


def test_without_noise_the_family_is_one_flow():
    law, sde = five_components(), CosineVPSDE()
    x_1 = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)
    family = (Langevin, LinearNoise, Geometric, DPMSolver, UnderdampedLangevin, PredictorCorrector)
    first, *others = (s(num_steps=20, noise=0.0).sample(law.as_score(sde), sde, x_1) for s in family)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        (DPMSolver(num_steps=7), 8),
        (UnderdampedLangevin(num_steps=7), 8),
        (ProbabilityFlow(num_steps=7), 15),
        (PredictorCorrector(num_steps=7), 15),
        (PredictorCorrector(num_steps=7, num_corrections=3), 29),
        # the last evaluation of a corrector's step is the predictor's first, or denoises: none is made twice
        (PredictorCorrector(num_steps=7, num_corrections=3, corrector="underdamped"), 29),
    ],
    ids=str,
)
def test_evaluations_are_as_many_as_stated(sampler, evaluations):
    law, sde, calls = five_components(), CosineVPSDE(), []

    def score(x, t, lengths=None):
        calls.append(t)
        return law.score(x, t, sde)

    sampler.sample(score, sde, torch.randn(1, 4, 3, generator=generator(0)), generator=generator(1))
    assert len(calls) == evaluations


def test_a_predictor_is_named_or_given():
    law, sde = five_components(), CosineVPSDE()
    x_1 = torch.randn(1, 6, 3, generator=generator(0), dtype=torch.float64)

    def run(**options):
        method = PredictorCorrector(num_steps=6, **options)
        return method.sample(law.as_score(sde), sde, x_1, generator=generator(1))

    given = run(predictor=LinearNoise(num_steps=99, noise=0.5, center="mean"), noise=0.5)
    assert torch.equal(run(predictor="linear_noise", noise=0.5, center="mean"), given)
    alone = LinearNoise(num_steps=6).sample(law.as_score(sde), sde, x_1, generator=generator(1))
    assert torch.equal(run(predictor="linear_noise", num_corrections=0), alone)


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


def test_a_configuration_names_a_predictor_or_nests_it():
    config = {"_target_": "mfcdm.samplers.PredictorCorrector", "predictor": "geometric", "num_steps": 5}
    assert build(config, Sampler) == PredictorCorrector(5, predictor="geometric")
    nested = {"_target_": "mfcdm.samplers.LinearNoise", "form": "isotropic"}
    made = build({**config, "predictor": nested}, Sampler, trust=True)
    assert made == PredictorCorrector(5, predictor=LinearNoise(form="isotropic"))
    with pytest.raises(ValueError, match=r"a sampler or one of .*got 'euler'"):
        build({**config, "predictor": "euler"}, Sampler)
    with pytest.raises(ValueError, match="_target_"):
        build({**config, "predictor": {"_target_": "subprocess.run", "args": "true"}}, Sampler)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Langevin(num_steps=0), "num_steps"),
        (lambda: Langevin(noise=-1), "noise"),
        (lambda: Geometric(center="median"), "median"),
        (lambda: LinearNoise(grid="cubic"), "cubic"),
        (lambda: ProbabilityFlow(noise=1.0), "deterministic"),
        (lambda: DPMSolver(noise=1.0), "Langevin is its SDE variant"),
        (lambda: Langevin(noise_schedule="linear"), "linear"),
        (lambda: Langevin(noise_until=1.0), "noise_until"),
        (lambda: Geometric(form="radial"), "radial"),
        (lambda: UnderdampedLangevin(friction=0.0), "friction"),
        (lambda: PredictorCorrector(predictor="euler"), "euler"),
        (lambda: PredictorCorrector(predictor=PredictorCorrector()), "another sampler"),
        (lambda: PredictorCorrector(corrector="hmc"), "hmc"),
        (lambda: PredictorCorrector(num_corrections=-1), "num_corrections"),
        (lambda: PredictorCorrector(snr=0.0), "snr"),
        (lambda: PredictorCorrector(corrector="underdamped", snr=1.0), "< 1"),
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
