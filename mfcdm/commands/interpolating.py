"""sample.py interpolate=FILE: clouds on the way from one to another, by the probability flow."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mfcdm.commands.classes import class_names, in_turn, title
from mfcdm.commands.console import Meter, say
from mfcdm.commands.files import write_samples
from mfcdm.commands.outputs import PICTURE, SAMPLES, remove_earlier, write_plies
from mfcdm.commands.tasks import Bar, Task
from mfcdm.datasets import Normalization
from mfcdm.interpolation import interpolate
from mfcdm.visualize import draw_clouds
from mfcdm.wording import counted

NUM_FRAMES = 8  # where no number is asked for


def interpolated(task: Task, folder: Path) -> None:
    """Go from the first cloud of each pair to the second, and write the frames, pair after pair."""
    num_frames = task.num_clouds or NUM_FRAMES
    if num_frames < 2:
        raise ValueError(f"interpolate={task.given.path} needs a frame for each end, got num_clouds={num_frames}")
    ends = _ends(task)
    # Heun's rule takes two evaluations a step, on the way of both ends to noise, and of every frame back.
    work, done = len(ends) * (2 + num_frames) * 2 * task.sampler.num_steps, 0
    rows = []
    with Meter(f"sampling {counted(len(ends) * num_frames, 'cloud')}") as meter:
        bar = Bar(meter)

        def tick() -> None:
            nonlocal done
            done += 1
            bar.show(done / work)

        for pair, (x, y) in enumerate(ends):
            rows.append(_frames(task, pair, x, y, torch.linspace(0, 1, num_frames), tick))
    _write(task, rows, folder)


def _ends(task: Task) -> list[tuple[Tensor, Tensor]]:
    """The pairs of clouds (N, D) in the network's coordinates: the first and second of the file, the next two, ..."""
    names, points = task.given.names, task.given.points
    there, wanted = len(points) // 2, task.options.num_pairs
    if there == 0:
        raise ValueError(f"{task.given.path} holds 1 cloud; interpolate needs two")
    if wanted is not None and wanted > there:
        raise ValueError(f"{task.given.path} holds {len(points)} clouds, too few for conditioning.num_pairs={wanted}")
    pairs = [(index, index + 1) for index in range(0, 2 * (wanted or there), 2)]
    for a, b in pairs:
        if task.num_particles is None and len(points[a]) != len(points[b]):
            fewer = min(len(points[a]), len(points[b]))
            raise ValueError(
                f"{names[a]} has {len(points[a])} points and {names[b]} {len(points[b])}; num_particles={fewer} takes "
                "as many of each, at random"
            )
    return [(task.some_points(a), task.some_points(b)) for a, b in pairs]


def _frames(task: Task, pair: int, x: Tensor, y: Tensor, weights: Tensor, tick: Callable[[], None]) -> list[Tensor]:
    """The clouds (N, D) from x to y, in the file's coordinates."""
    score = task.score([pair])

    def counted(x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        tick()
        return score(x, t, lengths)

    path = interpolate(
        counted,
        task.model.sde,
        x[None],
        y[None],
        weights,
        matching=task.options.matching,
        num_steps=task.sampler.num_steps,
        grid=task.sampler.grid,
    )
    first, second = task.given.frames[2 * pair : 2 * pair + 2]
    clouds = path[:, 0].cpu().float()
    return [_between(first, second, float(weight)).undo(cloud) for weight, cloud in zip(weights, clouds, strict=True)]


def _between(first: Normalization, second: Normalization, weight: float) -> Normalization:
    """Where training scaled each cloud by itself, place and size go linearly from one end's to the other's."""
    return Normalization(*((1 - weight) * a + weight * b for a, b in zip(first, second, strict=True)))


def _write(task: Task, rows: list[list[Tensor]], folder: Path) -> None:
    """samples.npz, one ply a frame, and a picture with a row a pair."""
    clouds = [cloud for row in rows for cloud in row]
    labels = in_turn(task.labels, len(rows))
    remove_earlier(folder)
    write_samples(folder / SAMPLES, clouds, [label for label in labels for _ in rows[0]])
    write_plies(folder, clouds)
    names, classes = [Path(name).name for name in task.given.names], class_names(task.model)
    ways = [f"{first} to {second}" for first, second in zip(names[::2], names[1::2], strict=False)]
    made = [title(classes, labels[pair : pair + 1], task.guidance) for pair in range(len(rows))]
    titles = [f"{way}, {how}" for way, how in zip(ways, made, strict=False)]
    draw_clouds(folder / PICTURE, rows, titles)
    say(
        f"{len(rows[0])} frames from one cloud to the other of {counted(len(rows), 'pair')} in {task.given.path}: "
        f"{folder / SAMPLES}, {folder / PICTURE}"
    )
