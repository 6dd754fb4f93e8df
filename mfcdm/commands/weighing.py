"""sample.py likelihood=FILE: nats per point of given clouds."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mfcdm.atomic import whole
from mfcdm.commands.classes import class_names
from mfcdm.commands.console import Meter, say
from mfcdm.commands.outputs import LIKELIHOOD
from mfcdm.commands.tasks import Bar, Task
from mfcdm.evaluation import checksum
from mfcdm.likelihood import log_likelihood
from mfcdm.randomness import cloud_generators, standard_normal
from mfcdm.wording import counted

MIN_WIDTH = 60  # of the table beside the clouds' names, so that no number is cut where stdout is a file
FORMULA = "log p_data(x) = log p(normalised x) - N D log std"


@dataclass(frozen=True)
class Weight:
    """What one cloud weighs.

    Args:
        cloud: where it comes from.
        points: N.
        label: class that it was weighed as, None for none.
        nats_per_point: log p_data(x) / N.
        standard_error: of it, over the probes of the divergence; None for a single probe.
        log_likelihood: log p_data(x).
        normalised_nats_per_point: log p(normalised x) / N.
        evaluations: of the score.
    """

    cloud: str
    points: int
    label: str | None
    nats_per_point: float
    standard_error: float | None
    log_likelihood: float
    normalised_nats_per_point: float
    evaluations: int


def weighed(task: Task, folder: Path) -> None:
    """Weigh the clouds of the file, print a table, and write likelihood.json."""
    count = min(task.num_clouds or len(task.given.points), len(task.given.points))
    clouds = [task.some_points(index) for index in range(count)]
    weights = []
    with Meter(f"weighing {counted(count, 'cloud')}") as meter:
        bar = Bar(meter)
        for index, cloud in enumerate(clouds):

            def progress(share: float, index: int = index) -> None:
                bar.show((index + share) / count)

            weights.append(_weight(task, index, cloud, progress))
    report = _report(task, weights)
    _show(report, weights)  # first: it is there even where the file cannot be
    with whole(folder / LIKELIHOOD) as scratch:
        scratch.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    say(f"likelihood: {folder / LIKELIHOOD}")


def _weight(task: Task, index: int, cloud: Tensor, progress: Callable[[float], None]) -> Weight:
    """Weigh a cloud (N, D) of the network's coordinates.

    The law has a density at t_min, so x_t = alpha x + sigma noise is weighed, and x_t / alpha has D log alpha nats per
    point more than x_t.
    """
    sde, score, options = task.model.sde, task.score([index]), task.options
    (generator,) = cloud_generators(task.seed, [index])
    ends = torch.tensor([sde.t_min, 1.0], dtype=torch.float64)
    top, bottom = sde.log_snr(ends).tolist()

    def followed(x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        progress((top - float(sde.log_snr(t.double())[0])) / (top - bottom))
        return score(x, t, lengths)

    mean, std = sde.marginal(cloud[None], torch.full((1,), sde.t_min, dtype=cloud.dtype, device=cloud.device))
    noise = standard_normal(mean.shape, [generator], dtype=cloud.dtype, device=cloud.device)
    found = log_likelihood(
        followed,
        sde,
        mean + std[:, None, None] * noise,
        generator=[generator],
        divergence=options.divergence,
        num_probes=options.num_probes,
        rtol=options.tolerance,
        atol=options.tolerance,
    )
    count, dim = cloud.shape
    normalised = float(found.per_point) + dim * math.log(float(sde.alpha(ends)[0]))
    nats, error = normalised - dim * math.log(float(task.model.normalization.std)), float(found.standard_error)
    labels = class_names(task.model)
    return Weight(
        cloud=task.given.names[index],
        points=count,
        label=labels[task.labels[index % len(task.labels)]] if task.labels else None,
        nats_per_point=nats,
        standard_error=error if math.isfinite(error) else None,
        log_likelihood=nats * count,
        normalised_nats_per_point=normalised,
        evaluations=int(found.evaluations),
    )


def _report(task: Task, weights: list[Weight]) -> dict[str, Any]:
    """Everything that likelihood.json holds."""
    sde, std = task.model.sde, float(task.model.normalization.std)
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    nats = torch.tensor([weight.nats_per_point for weight in weights], dtype=torch.float64)
    several = len(weights) > 1
    return {
        "file": {"path": task.given.path, "split": task.options.split, "sha256": checksum(task.given.path)},
        "step": task.model.step,
        "formula": FORMULA,
        "std": std,
        "normalization": task.given.scheme,
        "t_min": sde.t_min,
        "noise": std * float(sde.sigma(t) / sde.alpha(t)),  # standard deviation, in the data's coordinates
        "divergence": task.options.divergence,
        "num_probes": task.options.num_probes,
        "tolerance": task.options.tolerance,
        "seed": task.seed,
        "mean_nats_per_point": float(nats.mean()),
        "standard_error_over_clouds": float(nats.std()) / math.sqrt(len(weights)) if several else None,
        "clouds": [asdict(weight) for weight in weights],
    }


def _show(report: dict[str, Any], weights: list[Weight]) -> None:
    """Print the table on stdout."""
    with_class = any(weight.label is not None for weight in weights)
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("cloud", "points", *(["class"] if with_class else []), "nats per point", "standard error"):
        table.add_column(name, justify="left" if name in ("cloud", "class") else "right", no_wrap=True)
    for weight in weights:
        error = "-" if weight.standard_error is None else f"{weight.standard_error:.4f}"
        label = [weight.label or "-"] if with_class else []
        table.add_row(weight.cloud, str(weight.points), *label, f"{weight.nats_per_point:.4f}", error)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{report['formula']}, std = {report['std']:.6g}; noise {report['noise']:.3g} at t_min")
    if report["normalization"] != "global":
        console.print(f"every cloud scaled by itself (normalization={report['normalization']}): its own place and size")
        console.print("are not weighed, and x is the scaled cloud")
    width = max(len(weight.cloud) for weight in weights) + MIN_WIDTH
    console.print(table, width=max(console.width, width), soft_wrap=False, crop=False)
    if len(weights) > 1:
        console.print(
            f"mean of {counted(len(weights), 'cloud')}: {report['mean_nats_per_point']:.4f} nats per point, "
            f"standard error {report['standard_error_over_clouds']:.4f}"
        )
