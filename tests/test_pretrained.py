"""The checkpoint in pretrained/shapes is as its card says: it loads alone, and draws the class that is asked for."""

from pathlib import Path

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.datasets import Clouds, ParametricShapes
from mfcdm.generate import generate
from mfcdm.metrics import pairwise
from mfcdm.samplers import Langevin

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained" / "shapes"
NUM_PARTICLES, NUM_STEPS, NUM_CLOUDS = 256, 50, 10


@pytest.fixture(scope="module")
def model() -> checkpoint.Checkpoint:
    return checkpoint.load(PRETRAINED)


def test_it_is_small_and_holds_what_a_checkpoint_needs():
    files = sorted(path.name for path in PRETRAINED.iterdir())
    assert files == ["README.md", "config.yaml", "network.safetensors", "state.json"]
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < 12 * 2**20


def test_it_draws_the_class_that_it_is_asked_for(model):
    label = torch.arange(NUM_CLOUDS) % len(model.categories)
    x = generate(
        model.network,
        model.sde,
        Langevin(num_steps=NUM_STEPS),
        model.subdivision,
        model.branching,
        num_clouds=NUM_CLOUDS,
        num_particles=NUM_PARTICLES,
        label=label,
        guidance=2.0,
    )
    real = Clouds.of(ParametricShapes(100, NUM_PARTICLES, categories=model.categories, split="val"))
    distances = pairwise(model.normalization.undo(x), torch.stack(real.points()), "cd")
    found = real.labels[distances.argmin(dim=1)]
    # ignoring the labels, a fifth would agree by chance, and 8 of 10 once in 13,000 times
    assert int((found == label).sum()) >= 8, (found, label)
