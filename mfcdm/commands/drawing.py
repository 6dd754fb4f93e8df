"""Clouds drawn from a model, with a bar, and shared out where several processes draw."""

import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from mfcdm.checkpoint import Checkpoint
from mfcdm.commands.console import Meter, Pace
from mfcdm.generate import generate
from mfcdm.samplers import Sampler
from mfcdm.training.processes import ALONE, Processes
from mfcdm.wording import counted


def draw(
    model: Checkpoint,
    sampler: Sampler,
    num_clouds: int,
    num_particles: Sequence[int],
    seed: int,
    batch_size: int,
    labels: Sequence[int] = (),
    guidance: float = 1.0,
    processes: Processes = ALONE,
) -> list[Tensor]:
    """Clouds (N_i, D) on the CPU, in the data's coordinates, with a progress bar; all processes get all of them.

    Args:
        model: to draw from.
        sampler: with its number of steps.
        num_clouds: B.
        num_particles: cardinalities, which the clouds take in turn: N_i = num_particles[i mod their number].
        seed: cloud i depends on (seed, i), N_i and its label alone.
        batch_size: clouds drawn together, of one cardinality.
        labels: one a cloud, or none for clouds without a label.
        guidance: towards the labels.
        processes: that share the clouds out, those of each cardinality in turn; the first one shows its own work.
    """
    turns, own, every = len(num_particles), slice(processes.rank, None, processes.count), range(num_clouds)
    tasks = [(size, every[turn::turns][own]) for turn, size in enumerate(num_particles[:num_clouds])]
    work = float(sum(size * len(indices) for size, indices in tasks)) or 1.0
    clouds: dict[int, Tensor] = {}
    done, pace = 0.0, Pace()
    bar = Meter(f"sampling {in_words(num_clouds, num_particles)}") if processes.is_first else nullcontext()
    with processes.together(), bar as meter:
        for size, indices in tasks:
            if not indices:
                continue

            def progress(step: int, total: int, done: float = done, part: float = size * len(indices)) -> None:
                share = (done + part * step / total) / work
                speed = pace.add(share, time.monotonic())
                if meter is not None:
                    meter.show(share, seconds_left=(1 - share) / speed if speed > 0 else None)

            x = generate(
                model.network,
                model.sde,
                sampler,
                model.subdivision,
                model.branching,
                num_clouds=len(indices),
                num_particles=size,
                label=torch.tensor([labels[index] for index in indices]) if labels else None,
                guidance=guidance,
                seed=seed,
                batch_size=batch_size,
                indices=indices,
                progress=progress,
            )
            clouds |= zip(indices, model.normalization.undo(x).cpu(), strict=True)
            done += size * len(indices)
    found = {index: cloud for part in processes.objects(clouds) for index, cloud in part.items()}
    return [found[index] for index in every]


def in_words(num_clouds: int, num_particles: Sequence[int]) -> str:
    """What is drawn, as "5 clouds of 40, 64 points"."""
    *others, last = num_particles
    return f"{counted(num_clouds, 'cloud')} of {', '.join([*map(str, others), counted(last, 'point')])}"
