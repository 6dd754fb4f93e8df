"""With exact scores every sampler reaches the sampling-noise floor, at any cardinality."""

import pytest
import torch

from mfcdm.samplers import (
    DPMSolver,
    Geometric,
    Langevin,
    LinearNoise,
    PredictorCorrector,
    ProbabilityFlow,
    UnderdampedLangevin,
)
from mfcdm.sde import CosineVPSDE
from tests.laws import five_components, generator, pooled_error, shape_error, three_shapes

CLOUDS = {16: 512, 256: 32, 4096: 2}  # cardinality: clouds, 8,192 points in all
STOCHASTIC = [Langevin, LinearNoise, Geometric]


def run(sampler, law, num_clouds, num_particles, seed):
    sde, g = CosineVPSDE(), generator(seed)
    x_1 = sde.prior_sample((num_clouds, num_particles, law.dim), g)
    return sampler.sample(law.as_score(sde), sde, x_1, generator=g)


def mixture_floor(law, num_clouds, num_particles):
    """Mean and standard deviation of the error of a fresh sample."""
    pairs = [
        pooled_error(*(law.sample(num_clouds, num_particles, generator(s + d)) for d in (0, 500)))
        for s in range(100, 112)
    ]
    return torch.tensor(pairs).mean().item(), torch.tensor(pairs).std().item()


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("num_particles", CLOUDS)
def test_a_thousand_steps_reach_the_floor_on_a_mixture(sampler, num_particles):
    law = five_components()
    floor, spread = mixture_floor(law, CLOUDS[num_particles], num_particles)
    x = run(sampler(num_steps=1000, noise=1.0), law, CLOUDS[num_particles], num_particles, seed=1)
    error = pooled_error(x, law.sample(*x.shape[:2], generator(2)))
    assert error < floor + 4 * spread, "a fresh sample would lie above this once in some thousand times"


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("num_particles", CLOUDS)
def test_fifty_steps_of_full_noise_stay_near_the_floor(sampler, num_particles):
    law = five_components()
    floor, _ = mixture_floor(law, CLOUDS[num_particles], num_particles)
    x = run(sampler(num_steps=50, noise=1.0), law, CLOUDS[num_particles], num_particles, seed=3)
    assert pooled_error(x, law.sample(*x.shape[:2], generator(4))) < 3 * floor


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_interacting_clouds_take_one_shape_each_and_fill_it(sampler):
    law, num_clouds, num_particles = three_shapes(), 16, 256
    fresh = [shape_error(law.sample(num_clouds, num_particles, generator(s)), law, seed=s + 50) for s in range(8)]
    x = run(sampler(num_steps=1000), law, num_clouds, num_particles, seed=5)
    floors = torch.tensor(fresh)
    assert shape_error(x, law, seed=99) < floors.mean() + 4 * floors.std()


@pytest.mark.parametrize("center", ["origin", "mean"])
@pytest.mark.parametrize("sampler", [LinearNoise, Geometric])
def test_both_centres_keep_the_law_of_a_small_cloud(sampler, center):
    """With three particles the factor 1 - 1/N of div D is 2/3, so leaving it out would be seen."""
    law = five_components()
    floor, spread = mixture_floor(law, 2048, 3)
    x = run(sampler(num_steps=300, center=center), law, 2048, 3, seed=7)
    assert pooled_error(x, law.sample(2048, 3, generator(8))) < floor + 5 * spread


@pytest.mark.parametrize("num_steps", [14, 24])
def test_fifteen_and_twenty_five_evaluations_of_the_dpm_solver(num_steps):
    """Means of five seeds over the floor, on both laws: at most 2.5 after 15 evaluations, 1.2 after 25."""
    bound, solver, seeds = {14: 2.5, 24: 1.2}[num_steps], DPMSolver(num_steps), range(5)
    mixture, shapes = five_components(), three_shapes()
    floor, _ = mixture_floor(mixture, 32, 256)
    pooled = [
        pooled_error(run(solver, mixture, 32, 256, s), mixture.sample(32, 256, generator(s + 300))) for s in seeds
    ]
    assert sum(pooled) / 5 < bound * floor
    fresh = [shape_error(shapes.sample(16, 256, generator(s)), shapes, seed=s + 50) for s in range(8)]
    each = [shape_error(run(solver, shapes, 16, 256, s), shapes, seed=s + 99) for s in seeds]
    assert sum(each) / 5 < bound * sum(fresh) / 8


OTHERS = [
    LinearNoise(),
    LinearNoise(form="isotropic"),
    LinearNoise(center="mean"),
    Geometric(),
    Geometric(form="isotropic"),
    Geometric(center="mean"),
    UnderdampedLangevin(),
    UnderdampedLangevin(friction=0.5),
    PredictorCorrector(predictor="langevin", corrector="underdamped"),
]


def test_no_sde_sampler_is_three_times_worse_than_langevin_at_twenty_steps():
    """Full noise, means of three seeds."""
    law = five_components()

    def error(sampler):
        runs = [run(sampler.with_steps(20), law, 32, 256, seed) for seed in range(3)]
        return sum(pooled_error(x, law.sample(32, 256, generator(300 + s))) for s, x in enumerate(runs)) / 3

    bound = 3 * error(Langevin())
    assert {str(sampler): e for sampler in OTHERS if (e := error(sampler)) > bound} == {}


@pytest.mark.parametrize("sampler", [DPMSolver(50), *(s.with_steps(50) for s in OTHERS)], ids=str)
def test_fifty_steps_of_the_others_stay_near_the_floor(sampler):
    law = five_components()
    floor, _ = mixture_floor(law, 32, 256)
    assert pooled_error(run(sampler, law, 32, 256, seed=3), law.sample(32, 256, generator(4))) < 3 * floor


def test_the_probability_flow_reaches_the_floor_with_fifty_steps_of_heun():
    law = five_components()
    floor, spread = mixture_floor(law, 32, 256)
    x = run(ProbabilityFlow(num_steps=50), law, 32, 256, seed=9)
    assert pooled_error(x, law.sample(32, 256, generator(10))) < floor + 4 * spread


@pytest.mark.parametrize("sampler", [*STOCHASTIC, UnderdampedLangevin, ProbabilityFlow])
def test_the_noise_is_real(sampler):
    """Two runs from one x_T: only the flow repeats itself. Multiplicative noise keeps signs, so it forgets less."""
    law, sde = five_components(), CosineVPSDE()
    x_1 = sde.prior_sample((1, 2048, 3), generator(0))
    runs = [sampler(num_steps=50).sample(law.as_score(sde), sde, x_1, generator=generator(s)) for s in (1, 2)]
    first, second = ((x - x.mean(dim=1, keepdim=True)).flatten() for x in runs)
    correlation = float(first @ second / (first.norm() * second.norm()))
    bounds = {Langevin: 0.3, UnderdampedLangevin: 0.3, LinearNoise: 0.7, Geometric: 0.7, ProbabilityFlow: 1.1}
    bound = bounds[sampler]
    assert correlation < bound
    assert sampler is not ProbabilityFlow or correlation > 1 - 1e-6
