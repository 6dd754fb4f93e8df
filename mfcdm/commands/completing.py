"""sample.py complete=FILE and densify=FILE: clouds that contain the points of given ones."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfcdm.atomic import whole
from mfcdm.commands.classes import class_names, in_turn, title
from mfcdm.commands.console import Meter, say
from mfcdm.commands.files import write_samples
from mfcdm.commands.outputs import PICTURE, SAMPLES, remove_earlier, write_plies
from mfcdm.commands.tasks import Bar, Task
from mfcdm.conditioning import complete, densify
from mfcdm.holding import Hold
from mfcdm.randomness import cloud_generators
from mfcdm.settings import check_steps
from mfcdm.visualize import draw_clouds
from mfcdm.wording import counted

DENSER = 10  # times as many points, where no number is asked for
MAX_PICTURED = 8  # clouds of the file, and clouds made of each

# (task, indices of the clouds, given points (B, M, D), number of points N, advance) -> (B, N, D)
Fill = Callable[[Task, Sequence[int], Tensor, int, Callable[[int, int], None]], Tensor]


@dataclass(frozen=True)
class Wanted:
    """A cloud to be made: of which cloud of the file, and of how many points."""

    source: int
    num_particles: int


def completed(task: Task, folder: Path) -> None:
    """Complete the clouds of the file."""
    check_steps(f"sampler.num_steps={task.sampler.num_steps}", task.sampler.num_steps, task.model.subdivision)
    size = task.num_particles or task.model.subdivision.cardinalities[-1]
    _run(task, [Wanted(source, size) for source in _turns(task)], _complete, folder)


def densified(task: Task, folder: Path) -> None:
    """Make the clouds of the file denser."""
    points = task.given.points
    wanted = [Wanted(source, task.num_particles or DENSER * len(points[source])) for source in _turns(task)]
    _run(task, wanted, _densify, folder)


def _turns(task: Task) -> list[int]:
    """The cloud of the file that each cloud is made of: in turn, once where no number is asked for."""
    count = len(task.given.points)
    return [index % count for index in range(task.num_clouds or count)]


def _complete(
    task: Task, indices: Sequence[int], given: Tensor, num_particles: int, advance: Callable[[int, int], None]
) -> Tensor:
    return complete(
        task.score(indices),
        task.model.sde,
        task.sampler,
        task.model.subdivision,
        task.model.branching,
        given,
        num_particles=num_particles,
        hold=task.options.hold(Hold.directions),
        generator=cloud_generators(task.seed, indices),
        advance=advance,
    )


def _densify(
    task: Task, indices: Sequence[int], given: Tensor, num_particles: int, advance: Callable[[int, int], None]
) -> Tensor:
    return densify(
        task.score(indices),
        task.model.sde,
        task.sampler,
        given,
        num_particles=num_particles,
        push=task.options.push,
        hold=task.options.hold(0),
        generator=cloud_generators(task.seed, indices),
        advance=advance,
    )


def _run(task: Task, wanted: Sequence[Wanted], fill: Fill, folder: Path) -> None:
    """Make the clouds, and write them when all are made."""
    for cloud in wanted:
        if len(task.given.points[cloud.source]) > cloud.num_particles:
            raise ValueError(
                f"{task.given.names[cloud.source]} has {len(task.given.points[cloud.source])} points, more than "
                f"num_particles={cloud.num_particles}"
            )
    clouds = _made(task, wanted, fill)
    _write(task, wanted, clouds, folder)
    _draw(task, wanted, clouds, folder / PICTURE)
    sizes = dict.fromkeys(str(cloud.num_particles) for cloud in wanted)
    used, there = min(len(task.given.points), len(clouds)), len(task.given.points)
    say(
        f"{counted(len(clouds), 'cloud')} of {', '.join(sizes)} points, made of {used} of the {there} in "
        f"{task.given.path}: {folder / SAMPLES}, {folder / PICTURE}"
    )


def _made(task: Task, wanted: Sequence[Wanted], fill: Fill) -> list[Tensor]:
    """The clouds (N_i, D) in the file's coordinates; the given points come first, untouched."""
    clouds: dict[int, Tensor] = {}
    work, done = sum(cloud.num_particles for cloud in wanted), 0
    with Meter(f"sampling {counted(len(wanted), 'cloud')}") as meter:
        bar = Bar(meter)
        for batch in _batches(task, wanted):
            size = wanted[batch[0]].num_particles

            def advance(step: int, total: int, done: int = done, part: int = size * len(batch)) -> None:
                bar.show((done + part * step / total) / work)

            given = torch.stack([task.normalized(wanted[index].source) for index in batch])
            x = fill(task, batch, given, size, advance)
            for index, cloud in zip(batch, x, strict=True):
                source, count = wanted[index].source, given.shape[1]
                new = task.given.undo(source, cloud[count:])
                clouds[index] = torch.cat((task.given.points[source], new))
            done += size * len(batch)
    return [clouds[index] for index in range(len(wanted))]


def _batches(task: Task, wanted: Sequence[Wanted]) -> list[Sequence[int]]:
    """Indices of clouds that are made together: as many points in, as many out."""
    alike: dict[tuple[int, int], list[int]] = {}
    for index, cloud in enumerate(wanted):
        alike.setdefault((len(task.given.points[cloud.source]), cloud.num_particles), []).append(index)
    return [batch for indices in alike.values() for batch in _rows(indices, task.batch_size)]


def _rows(indices: Sequence[int], width: int) -> list[Sequence[int]]:
    return [indices[start : start + width] for start in range(0, len(indices), width)]


def _write(task: Task, wanted: Sequence[Wanted], clouds: list[Tensor], folder: Path) -> None:
    """samples.npz, with `given` (B,), the number of given points, which are the first rows, and one ply a cloud."""
    given = np.array([len(task.given.points[cloud.source]) for cloud in wanted])
    remove_earlier(folder)
    with whole(folder / SAMPLES) as scratch:
        write_samples(scratch, clouds, in_turn(task.labels, len(clouds)))
        with zipfile.ZipFile(scratch, "a") as archive, archive.open("given.npy", "w") as entry:  # an npz is such a zip
            np.save(entry, given)
    write_plies(folder, clouds)


def _draw(task: Task, wanted: Sequence[Wanted], clouds: list[Tensor], path: Path) -> None:
    """The given clouds, and below each what was made of it; of a single one all that was made, in rows."""
    given = task.given.points
    several = min(len(given), len(clouds))
    below = _rows(range(len(clouds)), several if several > 1 else MAX_PICTURED)
    below = [row[:MAX_PICTURED] for row in below[:MAX_PICTURED]]
    top = [given[wanted[index].source] for index in below[0][:several]]
    rows = [top, *([clouds[index] for index in row] for row in below)]
    marked = [[len(cloud) for cloud in top], *([len(given[wanted[index].source]) for index in row] for row in below)]
    made = title(class_names(task.model), in_turn(task.labels, len(clouds)), task.guidance)
    draw_clouds(path, rows, [f"given: {Path(task.given.path).name}", made], marked=marked, aligned=True)
