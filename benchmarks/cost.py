"""What a training run costs, by network and points: python benchmarks/cost.py

Whole steps of the run that a configuration stands for, on the embedded shapes: batch, network, gradient, optimizer and
average, at every level of the subdivision. A step costs sum_k w_k (median of level k), w_k the shares of steps that the
levels get. Validations, checkpoints and the final picture are not in it. Every row runs in a process of its own, whose
largest memory it reports; seconds are of processor time over all threads, and of the clock on a GPU. Adds the rows to
cost.csv beside this file, with the hardware's name, and prints them as a table.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hardware import add_rows, hardware_name
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mfcdm.cli import config_folder
from mfcdm.commands.assembly import Start, prepare
from mfcdm.training.engine import Trainer
from mfcdm.training.stepping import take_step

NETWORKS = ("tiny", "small", "base")
FIXED = ("dataset=shapes", "dataset.num_clouds=32", "validation.num_clouds=0", "num_pictured=0", "logger=none")
RUN = 10_000  # steps, whose hours the table shows


def trainer_of(overrides: list[str], folder: Path) -> Trainer:
    """The run of a configuration."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", [*FIXED, *overrides]), resolve=True)
    config: dict[str, Any] = {str(key): value for key, value in composed.items()}  # type: ignore[union-attr]
    return prepare(Start(config, folder, trust=True)).trainer


def step_seconds(trainer: Trainer, level: int) -> float:
    """Seconds of a step at a level: of the processor, on a GPU of the clock."""
    chosen = torch.zeros_like(trainer.objective.level_weights)
    chosen[level] = 1.0
    trainer.objective.level_weights = chosen
    on_gpu = trainer.fabric.device.type == "cuda"
    read = time.perf_counter if on_gpu else time.process_time
    begun = read()
    take_step(trainer)  # it reads the loss, for which a GPU must be done
    if on_gpu:
        torch.cuda.synchronize()
    trainer.step += 1
    return read() - begun


def measured(network: str, num_points: int, repeat: int, threads: int) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(threads)
    overrides = [f"network={network}", f"subdivision.num_particles={num_points}", "trainer.max_steps=1000000"]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(overrides, Path(scratch))
        shares = trainer.objective.level_weights
        levels = range(len(shares))
        for level in levels:
            step_seconds(trainer, level)  # to warm up
        medians = [statistics.median(step_seconds(trainer, level) for _ in range(repeat)) for level in levels]
    seconds = sum(float(share) * median for share, median in zip(shares / shares.sum(), medians, strict=True))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    on_gpu = trainer.fabric.device.type == "cuda"
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.raw.parameters()),
        "batch": trainer.options.batch_size,
        "levels": len(shares),
        "seconds_per_step": seconds,
        "coarsest": medians[0],
        "finest": medians[-1],
        "steps_per_second": 1 / seconds,
        "hours": RUN * seconds / 3600,
        "mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else most,
    }


def main() -> None:
    """Print the table and add its rows to the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--points", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeat", type=int, default=7, help="timed steps of each level")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", nargs=2, metavar=("NETWORK", "POINTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        network, points = options.worker
        print(json.dumps(measured(network, int(points), options.repeat, options.threads)))
        return
    torch.set_num_threads(options.threads)  # that the hardware's name tells
    rows = []
    print(f"{hardware_name()}, batches of 16 clouds")
    print("| network | points | parameters | steps/s | 10,000 steps | memory |\n|---|---|---|---|---|---|")
    for network, points in itertools.product(options.networks, options.points):
        settings = ["--threads", str(options.threads), "--repeat", str(options.repeat)]
        command = [sys.executable, __file__, *settings, "--worker", network, str(points)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{network}, {points} points: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout.splitlines()[-1])
        shown = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in found.items()}
        rows.append({"network": network, "points": points, **shown})
        print(
            f"| `{network}` | {points:,} | {found['parameters']:,} | {found['steps_per_second']:.2g} "
            f"| {found['hours']:.2g} h | {found['mib']:,.0f} MiB |",
            flush=True,
        )
        add_rows(options.output, rows, same=("network", "points", "threads_used"), threads_used=options.threads)


if __name__ == "__main__":
    main()
