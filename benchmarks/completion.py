"""Completion of partial clouds by a checkpoint.

    python benchmarks/completion.py --checkpoint RUN/checkpoints/last --data shapes|FILE

Of every cloud that the training has not seen (split `val`), the points on one side of a random plane are given, a share
of all, and the rest is asked for, in the frame of the whole cloud. A row is the chamfer distance (squared, mean + mean,
in the normalised coordinates) of a completion to the whole cloud, with its standard error over the clouds:

 * nearest training shape: the given points and points of the training cloud to which 256 of them have the smallest
   mean squared distance, of all that a checkpoint of the embedded shapes was trained on;
 * noise: the given points and Gaussian points of the training clouds' mean and spread;
 * replacement, correction until log-SNR 1, correction, correction + resampling: `mfcdm.conditioning.complete`, from
   less to more expensive;
 * another cloud's: what the last of them made for the next cloud, with the points given here: what conditioning is
   worth.

`unmoved` counts the completions whose first points are the given ones to the last bit.
Prints a table and adds the rows to completion.csv beside this file, with the hardware's name; --picture draws clouds.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hardware import add_rows, hardware_name
from torch import Tensor

from mfcdm import checkpoint
from mfcdm.conditioning import complete
from mfcdm.datasets import Clouds, ParametricShapes, open_dataset, rescaled
from mfcdm.datasets.clouds import Scheme
from mfcdm.holding import Hold
from mfcdm.metrics import chamfer_distance
from mfcdm.networks import as_score
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import Langevin
from mfcdm.visualize import draw_clouds

HOLDS = {
    "replacement": Hold(directions=0),
    "correction until 1": Hold(until=1.0),
    "correction": Hold(),
    "correction + resampling": Hold(resamplings=2, jump=3.0),
}


LOOKED_UP, SEEN = 256, 1024  # given points, and points of a training cloud, that decide which one is nearest


def clouds(source: str, split: str, count: int, num_points: int, scheme: Scheme) -> list[Tensor]:
    """Clouds of a split in the coordinates of the training's data, each at most `num_points` points.

    Of the embedded shapes so many as `count` says, of a file all that it has.
    """
    if source == "shapes":
        data = Clouds.of(ParametricShapes(count, num_points, split=split))
    else:
        data = Clouds.of(open_dataset(source, split=split))
    return [cloud[:num_points] for cloud in rescaled(data, scheme).points()]


def partial(cloud: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The share of a cloud's points that lies furthest in a random direction, (M, D)."""
    direction = torch.randn(cloud.shape[1], generator=generator, dtype=cloud.dtype)
    return cloud[(cloud @ direction).topk(max(1, round(share * len(cloud)))).indices]


def nearest(given: Tensor, train: list[Tensor], count: int) -> Tensor:
    """`count` points of the training cloud to which the given points are nearest."""
    some = given[torch.linspace(0, len(given) - 1, min(len(given), LOOKED_UP)).round().long()]
    distances = [torch.cdist(some, cloud[:SEEN]).min(dim=1).values.square().mean() for cloud in train]
    return train[int(torch.stack(distances).argmin())][:count]


def completed(model: checkpoint.Checkpoint, given: Tensor, hold: Hold, options: argparse.Namespace) -> Tensor:
    """The model's completions (B, N, D) of given points (B, M, D), in batches."""
    done = []
    for start in range(0, len(given), options.batch_size):
        some = given[start : start + options.batch_size]
        label = torch.arange(start, start + len(some)) % len(model.categories) if options.labelled else None
        x = complete(
            as_score(model.network, model.sde, label),
            model.sde,
            Langevin(num_steps=options.num_steps),
            model.subdivision,
            model.branching,
            some,
            num_particles=options.num_particles,
            hold=hold,
            generator=cloud_generators(options.seed, range(start, start + len(some))),
        )
        done.append(x)
    return torch.cat(done)


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="the checkpoint, as --checkpoint")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", default="shapes", help='"shapes" or an archive with the splits train and val')
    parser.add_argument("--num-clouds", type=int, default=32)
    parser.add_argument("--num-particles", type=int, help="default: the trained cardinality")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1, 0.25, 0.5], help="of the points given")
    parser.add_argument("--holds", nargs="*", choices=HOLDS, default=list(HOLDS), help="completions to make")
    parser.add_argument("--without-baselines", action="store_true", help="leave out noise and the nearest shape")
    parser.add_argument("--labelled", action="store_true", help="the network is told the embedded shapes' classes")
    parser.add_argument("--num-steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="png: given points, truth, and completions of 8 clouds")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    options.checkpoint = options.checkpoint or options.folder
    if options.checkpoint is None:
        parser.error("--checkpoint is not given")

    model = checkpoint.load(options.checkpoint)
    options.num_particles = options.num_particles or model.subdivision.cardinalities[-1]
    scheme = model.config.get("normalization", "global")
    counts = {"train": model.config.get("dataset", {}).get("num_clouds", 1000), "val": options.num_clouds}
    train, val = (clouds(options.data, split, n, options.num_particles, scheme) for split, n in counts.items())
    val = [cloud for cloud in val if len(cloud) == options.num_particles][: options.num_clouds]
    if not val:
        raise SystemExit(f"no cloud of {options.data} has {options.num_particles} points; lower --num-particles")
    train = [model.normalization.apply(cloud) for cloud in train]
    truth = torch.stack([model.normalization.apply(cloud) for cloud in val])
    spread = torch.cat(train)
    rows = []
    print(f"{hardware_name()}; {len(truth)} clouds of {options.num_particles}, {options.num_steps} steps")
    print(f"{'given':>6} {'completion':<26} {'chamfer':>9} {'+-':>8} {'s a cloud':>10} {'unmoved':>8}")
    for share in options.shares:
        generator = torch.Generator().manual_seed(options.seed)
        given = torch.stack([partial(cloud, share, generator) for cloud in truth])
        num_new = options.num_particles - given.shape[1]

        def filled(given: Tensor = given, num_new: int = num_new, generator: torch.Generator = generator) -> Tensor:
            noise = torch.randn(len(given), num_new, given.shape[2], generator=generator)
            return torch.cat((given, spread.mean(dim=0) + spread.std(dim=0) * noise), dim=1)

        def looked_up(given: Tensor = given, num_new: int = num_new) -> Tensor:
            return torch.stack([torch.cat((points, nearest(points, train, num_new))) for points in given])

        makers: dict[str, Callable[[], Tensor]] = {}
        if not options.without_baselines:
            makers |= {"noise": filled, "nearest training shape": looked_up}
        for name in options.holds:
            hold = HOLDS[name]
            makers[name] = functools.partial(completed, model, given, hold, options)
        made: dict[str, Tensor] = {}
        for name, make in makers.items():
            begun = time.perf_counter()
            made[name] = make()
            told = ", class told" if options.labelled and name in HOLDS else ""
            rows.append(row(share, name + told, made[name], given, truth, (time.perf_counter() - begun) / len(truth)))
        other = made[name].roll(1, dims=0)[:, given.shape[1] :]
        rows.append(row(share, "another cloud's", torch.cat((given, other), dim=1), given, truth, 0.0))
        if options.picture is not None:
            path = options.picture.with_stem(f"{options.picture.stem}-{share:g}")
            draw_clouds(path, [list(x[:8]) for x in (given, truth, *made.values())])
    add_rows(
        options.output,
        rows,
        ("data", "num_particles", "given", "completion"),
        data=Path(options.data).stem,
        training_steps=checkpoint.read_state(options.checkpoint)["step"],
        clouds=len(truth),
        num_particles=options.num_particles,
        num_steps=options.num_steps,
    )


def row(share: float, name: str, x: Tensor, given: Tensor, truth: Tensor, seconds: float) -> dict[str, float | str]:
    """One row, printed."""
    unmoved = sum(torch.equal(whole[: len(part)], part) for whole, part in zip(x, given, strict=True))
    distances = chamfer_distance(x, truth)
    mean, error = float(distances.mean()), float(distances.std()) / len(distances) ** 0.5
    print(f"{share:>6g} {name:<26} {mean:>9.4f} {error:>8.4f} {seconds:>10.2f} {unmoved:>8}", flush=True)
    median, a_cloud = float(distances.median()), round(seconds, 3)
    values = {"chamfer": round(mean, 5), "standard_error": round(error, 5), "median": round(median, 5)}
    return {"given": share, "completion": name, **values, "unmoved": unmoved, "seconds_a_cloud": a_cloud}


if __name__ == "__main__":
    main()
