"""A small run on an exact law."""

from pathlib import Path

import torch
from torch import Tensor

from mfcdm.branching import Renoise
from mfcdm.datasets import Clouds, Normalization
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Trainer
from mfcdm.training.optimizers import read_moments
from mfcdm.training.options import TrainerOptions
from mfcdm.training.validation import Scores, Validation, ValidationOptions
from tests.laws import generator, three_shapes

NETWORK = {"width": 16, "depth": 1, "num_moments": 4, "num_scales": 2, "channels": 4}
CONFIG = {
    "network": {"_target_": "mfcdm.networks.ScoreNetwork", **NETWORK},
    "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
    "subdivision": {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [8, 16], "times": [1.0, 0.4]},
    "branching": {"_target_": "mfcdm.branching.Renoise", "push": 1.4},
}
SDE = CosineVPSDE()
LEVELS = Subdivision([8, 16], [1.0, 0.4])
UNCHANGED = Normalization(torch.zeros(3), torch.tensor(1.0))


def validation(**options) -> Validation:
    """Against six clouds of the law, with few steps."""
    held_out = Clouds(three_shapes().sample(6, 16, generator(7), dtype=torch.float32))
    options = ValidationOptions(**{"every": 0.5, "num_clouds": 6, "num_steps": 3, **options})
    return Validation(held_out, UNCHANGED, SDE, Langevin(), LEVELS, Renoise(1.4), options)


def trainer(
    folder: Path, poison=(), num_clouds=12, validation=None, loggers=(), num_classes=0, jacobian_weight=0.0, **options
) -> Trainer:
    """A run of six steps; the clouds of `poison` hold infinities, and with classes they take them in turn."""
    torch.manual_seed(0)
    x = three_shapes().sample(num_clouds, 16, generator(0), dtype=torch.float32)
    x[list(poison)] = torch.inf
    labels = torch.arange(num_clouds) % num_classes if num_classes else None
    options = TrainerOptions(**{"max_steps": 6, "batch_size": 4, "warmup_steps": 2, "accelerator": "cpu", **options})
    return Trainer(
        ScoreNetwork(**NETWORK, num_classes=num_classes),
        MeanFieldScoreMatching(SDE, LEVELS, jacobian_weight),
        Batches(Clouds(x, labels=labels), options.batch_size, 0),
        UNCHANGED,
        options,
        CONFIG,
        folder,
        validation=validation,
        loggers=loggers,
    )


def state(run: Trainer) -> dict[str, Tensor]:
    """Weights, averages and the optimizer's state, by name."""
    found = {f"network.{name}": weight for name, weight in run.raw.state_dict().items()}
    found |= {f"ema.{name}": mean for name, mean in run.ema.mean.items()}
    moments = read_moments(run.raw, run.raw_optimizers)
    assert len(moments) > len(list(run.raw.parameters())), "each parameter has at least one moment"
    found |= {f"optimizer.{name}": moment for name, moment in moments.items()}
    return found


class Scripted:
    """A validation that draws nothing: after so many steps of `run` it finds (1-NNA, low, high) as given."""

    def __init__(self, found, **options) -> None:
        self.options = ValidationOptions(**{"every": 1, **options})
        self.found = dict(enumerate(found, 1))
        self.run: Trainer | None = None

    def __call__(self, network, progress=None) -> Scores:
        progress(1, 1)
        return scores(*self.found[self.run.step])

    def draw(self, path, scores) -> None:
        """No picture."""


def scores(score: float, low: float, high: float) -> Scores:
    """What a validation found, as far as the 1-NNA goes."""
    names = ("validation/1nna-cd", "validation/1nna-cd/low", "validation/1nna-cd/high")
    return Scores(dict(zip(names, (score, low, high), strict=True)), torch.zeros(1, 1, 3))


def scripted(folder: Path, found, patience: int = 0, loggers=(), **options) -> Trainer:
    """A run whose validations find what is given, one a step."""
    measure = Scripted(found, patience=patience)
    measure.run = trainer(folder, validation=measure, loggers=loggers, **options)
    return measure.run


class Exact:
    """The network whose score is the law's own: v = -sigma (s + x) / alpha."""

    prediction = "v"

    def __call__(self, x: Tensor, t: Tensor, lengths=None, label=None) -> Tensor:
        alpha, sigma = SDE.alpha(t)[:, None, None], SDE.sigma(t)[:, None, None]
        return -sigma * (three_shapes().score(x, t, SDE) + x) / alpha
