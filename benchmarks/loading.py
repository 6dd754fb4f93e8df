"""What it costs to train on clouds that stay in their files: python benchmarks/loading.py

Writes a mapped archive of the embedded shapes (or takes the one at --archive), and measures in one process, in seconds
of processor time:

  loading   a batch of 16 clouds, read from the files, normalised, and in one row also changed at random
  memory    the same batch from memory, for comparison
  step      forward, backward and optimizer step of `small` on such batches, a mean over the levels of the subdivision

and over 4,000 batches the memory that is resident and belongs to no file (RssAnon), with the slope of a straight line
through it and its standard error, both from means over blocks of 250 batches, as neighbouring readings are not
independent, after 16,000 batches of warming up: the allocator's pools fill in few steps of 0.15 or 0.3 MiB, 0.9 MiB
together where a thread reads ahead. Adds the rows to loading.csv beside this file, with the hardware's name.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import add_rows, hardware_name

from mfcdm.datasets import (
    Clouds,
    Layout,
    MappedArchive,
    MappedClouds,
    Normalization,
    ParametricShapes,
    clouds_of,
    write_archive,
)
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.augmentation import Augmentation
from mfcdm.training.batches import Batches, BatchesAhead
from mfcdm.training.optimizers import build_optimizers

BATCH, LEVELS, BLOCK, WARM = 16, 4, 250, 16_000
CHANGES = Augmentation(rotation=10.0, scale=(0.9, 1.1), jitter=0.01, mirror="x")


def processor_seconds(run: Callable[[int], Any], count: int) -> float:
    """Median over the calls run(0), run(1), ..."""
    costs = []
    for number in range(count):
        begun = time.process_time()
        run(number)
        costs.append(time.process_time() - begun)
    return statistics.median(costs)


def normalized(clouds: Clouds, normalization: Normalization) -> Clouds:
    """In the network's coordinates, as training does it."""
    return clouds.map(lambda x, _: normalization.apply(x), pointwise=True)


def step_seconds(batches: Batches, num_particles: int, steps: int) -> float:
    """Of one training step."""
    torch.manual_seed(0)
    network = ScoreNetwork()
    objective = MeanFieldScoreMatching(CosineVPSDE(), Subdivision.dyadic(num_particles, LEVELS))
    optimizers = build_optimizers(network, "muon", 8e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    batch = batches.at(0)

    def step(level: int) -> None:
        draw = objective.draw(batch.x, batch.lengths, generator, level=level)
        network.zero_grad()
        objective.loss(network, draw).total.backward()
        for optimizer in optimizers:
            optimizer.step()

    costs = []
    for level in range(LEVELS):
        step(level)  # warm
        costs.append(processor_seconds(lambda _, level=level: step(level), steps))  # type: ignore[misc]
    return statistics.mean(costs)


def anonymous_kib() -> int:
    """Resident memory without the pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory(batches: Batches, count: int) -> dict[str, float]:
    """Slope of the resident memory over the batches, with its standard error, in KiB a batch."""
    for step in range(WARM):
        batches.at(step)
    gc.collect()
    found = np.full(count // BLOCK * BLOCK, -1)  # all of it now: a list would grow with the batches
    for number in range(len(found)):
        batches.at(WARM + number)
        found[number] = anonymous_kib()
    grown = found - found[0]
    blocks = grown.reshape(-1, BLOCK).mean(axis=1)
    at = BLOCK * (np.arange(len(blocks)) + 0.5)
    slope, level = np.polyfit(at, blocks, 1)
    left = blocks - slope * at - level
    error = (left.var() * len(at) / (len(at) - 2) / ((at - at.mean()) ** 2).sum()) ** 0.5
    return {"kib_a_batch": float(slope), "standard_error": float(error), "kib_in_all": int(grown[-1])}


def rows(archive: MappedArchive, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All measurements."""
    raw = clouds_of(archive)
    begun = time.process_time()
    normalization = Normalization.fit(raw.map(lambda x, _: x))  # as read cloud by cloud; the index has it, too
    yield {"job": "statistics", "seconds": time.process_time() - begun}
    clouds = normalized(raw, normalization)
    plain, changed = Batches(clouds, BATCH, 0), Batches(clouds, BATCH, 0, augmentation=CHANGES)
    step = step_seconds(plain, options.points, options.steps)
    yield {"job": "step", "seconds": step}
    some = archive[0]["x"]
    held = Batches(Clouds(normalization.apply(torch.stack([some] * 2048))), BATCH, 0)
    for job, batches in (("loading", plain), ("loading, changed", changed), ("memory", held)):
        processor_seconds(batches.at, 50)  # warm
        found = processor_seconds(batches.at, options.batches)
        yield {"job": job, "seconds": found, "percent_of_step": 100 * found / step}
    assert isinstance(clouds, MappedClouds)
    for job, kind in (("resident", Batches), ("resident, ahead", BatchesAhead)):
        yield {"job": job, **memory(kind(clouds, BATCH, 0), options.memory_batches)}


def main() -> None:
    """Print the rows and add them to the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="a mapped archive; without it one is made and removed again")
    parser.add_argument("--clouds", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=400, help="timed")
    parser.add_argument("--memory-batches", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=5, help="timed, a level")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(hardware_name())
    with tempfile.TemporaryDirectory() as folder:
        place = options.archive or Path(folder) / "archive"
        if not place.exists():
            write_archive(place, {"train": ParametricShapes(options.clouds, options.points)}, Layout())
        archive = MappedArchive(place)
        fields = ("job", "seconds", "percent_of_step", "kib_a_batch", "standard_error", "kib_in_all")
        for row in rows(archive, options):
            shown = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
            print(" ".join(f"{name}={value}" for name, value in shown.items()), flush=True)
            about = {"clouds": len(archive), "points": options.points, "batch": BATCH}
            add_rows(options.output, [dict.fromkeys(fields, "") | shown], ("job", "clouds", "points", "batch"), **about)


if __name__ == "__main__":
    main()
