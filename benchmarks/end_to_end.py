"""What training and sampling cost, by N, backend and sampler: python benchmarks/end_to_end.py --checkpoint CHECKPOINT

Training: forward, backward and optimizer step of a network on clouds of the embedded shapes, with the levels of the
subdivision and with the full cardinality in every step, for each backend of the interaction that runs here. Sampling:
clouds of a trained checkpoint, by sampler, cardinality and number of evaluations. Every row runs in a process of its
own, whose largest memory it reports; seconds are of processor time over all threads (of the clock on a GPU), and
wall seconds beside them. Adds the rows to end_to_end.csv beside this file, with the hardware's name.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hardware import add_rows, hardware_name

from mfcdm import checkpoint, samplers
from mfcdm.datasets import Clouds, Normalization, ParametricShapes
from mfcdm.generate import generate
from mfcdm.interaction import available_backends
from mfcdm.networks import ScoreNetwork, compiled
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.optimizers import build_optimizers

SIZES = {
    "tiny": {"width": 32, "depth": 2, "num_moments": 8, "num_scales": 3, "channels": 8},
    "small": {},
    "base": {"width": 128, "depth": 6, "num_moments": 32, "channels": 32},
}
SAMPLERS = {"langevin": "Langevin", "linear_noise": "LinearNoise", "geometric": "Geometric", "flow": "ProbabilityFlow"}
BATCH = 16


def timed(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Processor seconds and wall seconds of one call; on a GPU both are those of the clock."""
    if device == "cuda":
        torch.cuda.synchronize()
    processor, wall = time.process_time(), time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - wall, time.perf_counter() - wall
    return time.process_time() - processor, time.perf_counter() - wall


def memory_mib(device: str) -> float:
    """The most that this process has held, or the most that it has held on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training_step(size: str, backend: str, num_particles: int, levels: int, device: str, steps: int) -> dict[str, Any]:
    """Median cost of a step of BATCH clouds, after two steps of warming up."""
    torch.manual_seed(0)
    network = ScoreNetwork(**SIZES[size], backend=backend).to(device)  # type: ignore[arg-type]
    clouds = Clouds.of(ParametricShapes(BATCH, num_particles))
    x_0 = Normalization.fit(clouds).apply(torch.stack(clouds.points())).to(device)
    subdivision = Subdivision.dyadic(num_particles, levels)
    objective = MeanFieldScoreMatching(CosineVPSDE(), subdivision)
    optimizers = build_optimizers(network, "muon", 8e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)

    def step(level: int) -> None:
        draw = objective.draw(x_0, None, generator, level=level)
        loss = objective.loss(network, draw).total
        network.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    costs = []
    for level in range(levels):
        step(level)
        costs.append([timed(lambda level=level: step(level), device) for _ in range(steps)])  # type: ignore[misc]
    processor, wall = (
        statistics.mean(statistics.median(cost[kind] for cost in own) for own in costs) for kind in (0, 1)
    )
    return {"seconds": processor / BATCH, "wall": wall / BATCH, "clouds_per_second": BATCH / wall}


def sampling(
    path: str, sampler: str, num_particles: int, steps: int, clouds: int, device: str, compiles: bool
) -> dict[str, Any]:
    """Cost of a cloud, after a small cloud of warming up, or where torch compiles after the same clouds."""
    model = checkpoint.load(path, device=device)
    rule = getattr(samplers, SAMPLERS[sampler])(num_steps=steps)
    count = {"evaluations": 0}
    network = compiled(model.network) if compiles else model.network
    network.register_forward_hook(lambda *_: count.__setitem__("evaluations", count["evaluations"] + 1))

    def draw(number: int, num_particles: int) -> None:
        parts = (network, model.sde, rule, model.subdivision, model.branching)
        generate(*parts, num_clouds=number, num_particles=num_particles, batch_size=BATCH)

    draw(*((clouds, num_particles) if compiles else (1, min(num_particles, 64))))
    count["evaluations"] = 0
    processor, wall = timed(lambda: draw(clouds, num_particles), device)
    evaluations = count["evaluations"] // -(-clouds // BATCH)
    return {"evaluations": evaluations, "seconds": processor / clouds, "wall": wall / clouds}


def tasks(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Every row's settings and the call that measures it."""
    backends = [name for name in options.backends if name in available_backends()]
    for backend in backends:
        for num_particles in options.train_sizes:
            for levels in (4, 1):
                about = {"job": "training", "network": options.network, "backend": backend, "points": num_particles}
                call = [
                    "training_step",
                    options.network,
                    backend,
                    num_particles,
                    levels,
                    options.device,
                    options.repeat,
                ]
                yield {**about, "levels": levels, "clouds": BATCH}, call
    for num_particles in options.sample_sizes if options.checkpoint else ():
        for sampler in options.samplers:
            clouds = max(1, min(options.num_clouds, 2**17 // num_particles))
            about = {"job": "sampling", "sampler": sampler, "points": num_particles, "clouds": clouds}
            about |= {"compiled": "compiled"} if options.compile else {}
            call = ["sampling", str(options.checkpoint), sampler, num_particles, options.steps, clouds, options.device]
            yield about, [*call, options.compile]


def work(call: list[Any], threads: int) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(threads)
    name, *arguments = call
    row = training_step(*arguments) if name == "training_step" else sampling(*arguments)
    return {**row, "mib": memory_mib("cuda" if torch.cuda.is_initialized() else "cpu")}


def main() -> None:
    """Print the table and add its rows to the csv."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="sampling is left out without one")
    parser.add_argument("--network", choices=SIZES, default="small")
    parser.add_argument("--backends", nargs="*", default=["triton", "native", "tiled"])
    parser.add_argument("--train-sizes", type=int, nargs="*", default=[512, 2048])
    parser.add_argument("--sample-sizes", type=int, nargs="*", default=[512, 2048, 16384, 100000])
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=["langevin"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num-clouds", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5, help="timed steps of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default=device)
    parser.add_argument("--compile", action="store_true", help="have torch compile the network for sampling")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker), options.threads)))
        return
    rows = []
    print(f"{hardware_name()}, {options.threads} used")
    for about, call in tasks(options):
        command = [sys.executable, __file__, "--threads", str(options.threads), "--worker", json.dumps(call)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{about}: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout.splitlines()[-1])
        shown = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in found.items()}
        columns = ("network", "backend", "levels", "sampler", "compiled", "evaluations", "clouds_per_second")
        rows.append({"job": "", "points": "", "clouds": "", **dict.fromkeys(columns, ""), **about, **shown})
        print({name: value for name, value in rows[-1].items() if value != ""}, flush=True)
    same = ("job", "points", "network", "backend", "levels", "sampler", "compiled", "evaluations", "threads_used")
    add_rows(options.output, rows, same=same, threads_used=options.threads)


if __name__ == "__main__":
    main()
