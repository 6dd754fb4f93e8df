"""Time, memory and error of the ball convolution and of its peers, by N: python benchmarks/interaction.py

Points lie on the unit sphere, 4 clouds (1 from 2^19 points on), 4 heads of 16 channels, float32; the radius is 0.2 (1 %
of the pairs) or shrinks so that a point keeps 64 neighbours. Sorting, trees and block masks are made once for many
layers and are timed apart, as `setup`. "forward+backward" is for the gradients of x and v, "all" for the bandwidths'
besides. Seconds are of CPU time on one thread, or of CUDA events. Memory is what a pass takes beyond its arguments.
The error is the largest of the outputs at 32 points a cloud, over the largest output, against the same formula in
float64: for scaled_dot_product_attention the Gaussian that is never cut off, for flex_attention the weights that sum
to 1. A cell that would take too long or too much memory, as foreseen from smaller ones, is "not run".
Writes interaction.csv beside this file, with the hardware's name; plot_interaction.py draws it. Peers that cannot be
installed are skipped: pip install -e ".[benchmarks]"
"""

import argparse
import ctypes
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import hardware_name, write_csv
from interaction_peers import GIB, METHODS, OURS, NotRun, Problem, Run, missing
from torch import Tensor

from mfcdm.interaction.reference import ball_convolution_reference

SIZES = (512, 2048, 8192, 32768, 131072, 262144, 1048576)
NUM_CLOUDS, NUM_HEADS, NUM_CHANNELS, CHECKED = 4, 4, 16, 32
RADIUS, NEIGHBOURS = 0.2, 64
QUADRATIC = ("dense torch", "scaled_dot_product_attention", "keops")


def problem_of(num_points: int, at: str, device: str) -> Problem:
    """Draw one size; `at` is "fixed radius" or "fixed neighbours"."""
    num_clouds = NUM_CLOUDS if num_points < 2**19 else 1
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(num_clouds, num_points, 3, generator=g), dim=-1)
    v = torch.randn(num_clouds, NUM_HEADS, num_points, NUM_CHANNELS, generator=g)
    radius = RADIUS if at == "fixed radius" else 2 * math.sqrt(NEIGHBOURS / num_points)
    bandwidth = radius * torch.linspace(1 / 8, 3 / 4, NUM_HEADS)
    return Problem(x.to(device), v.to(device), bandwidth.to(device), radius, options.memory * GIB)


def resident(peak: bool = False) -> int:
    """Bytes of memory that this process has, or has had at most since the last `forget_peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def forget_peak(device: str) -> int:
    """Give free memory back and return what is held now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call."""
    if device != "cuda":
        begun = time.process_time()
        function()
        return time.process_time() - begun
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def exact(method: str, problem: Problem, rows: Tensor) -> Tensor:
    """The formula of a method at some rows of every cloud, in float64."""
    x, v, bandwidth = problem.x.double(), problem.v.double(), problem.bandwidth.double()
    if method != "scaled_dot_product_attention":
        normalize = "kernel" if method == "flex_attention" else "mean"
        return ball_convolution_reference(x[:, rows], v, bandwidth, radius=problem.radius, y=x, normalize=normalize)
    exponents = -0.5 * torch.cdist(x[:, rows], x).square()[:, None] / bandwidth[:, None, None] ** 2
    return exponents.softmax(-1) @ v


def passes(method: str, run: Run, problem: Problem) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """What is measured, by name."""
    g = torch.randn(problem.v.shape, generator=torch.Generator().manual_seed(1)).to(problem.v)

    def backward(*wanted: bool) -> Tensor:
        arguments = (problem.x, problem.v, problem.bandwidth)
        leaves = [t.clone().requires_grad_(need) for t, need in zip(arguments, wanted, strict=True)]
        out = run(*leaves)
        return torch.autograd.grad(out, [leaf for leaf in leaves if leaf.requires_grad], g)[0]

    yield "forward", lambda: run(problem.x, problem.v, problem.bandwidth)
    yield "forward+backward", partial(backward, True, True, False)
    if method in OURS:
        yield "all", partial(backward, True, True, True)


def measured(method: str, problem: Problem, foreseen: Callable[[str], float]) -> Iterator[dict[str, Any]]:
    """One row a pass; setting up is done once."""
    device = problem.x.device.type
    made: list[Run] = []
    setup = timed(lambda: made.append(METHODS[method](problem)), device)
    rows = torch.linspace(0, problem.x.shape[1] - 1, CHECKED, device=device).long()
    for name, function in passes(method, made[0], problem):
        if foreseen(name) > options.seconds:
            yield {"pass": name, "status": f"not run: about {foreseen(name):.0f} s"}
            continue
        results: list[torch.Tensor] = []
        held = forget_peak(device)
        first = timed(lambda function=function, results=results: results.append(function()), device)  # type: ignore[misc]
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident(peak=True)
        again = 0 if first > options.seconds / 10 and device != "cuda" else max(3, min(20, int(0.3 / max(first, 1e-3))))
        seconds = statistics.median([timed(function, device) for _ in range(again)] or [first])
        row = {"pass": name, "status": "ok", "seconds": seconds, "mib": (peak - held) / 2**20, "setup": setup}
        if name == "forward":
            truth = exact(method, problem, rows)
            row["error"] = float((results[0][:, :, rows] - truth).abs().max() / truth.abs().max())
        yield row


def cells(method: str, at: str, device: str) -> Iterator[dict[str, Any]]:
    """All sizes of a method, until they take too long."""
    last: dict[str, tuple[int, float]] = {}
    power = 2.0 if method in QUADRATIC or at == "fixed radius" else 1.0
    for num_points in options.sizes:

        def foreseen(name: str, num_points: int = num_points) -> float:
            clouds = 1 if num_points < 2**19 else 1 / NUM_CLOUDS
            before, seconds = last.get(name, last.get("forward", (num_points, 0.0)))
            return clouds * seconds * (num_points / before) ** power

        about = {"at": at, "method": method, "points": num_points}
        try:
            reason = missing(method, device)
            if reason is not None:
                raise NotRun(reason)
            if foreseen("forward") > options.seconds:
                raise NotRun(f"about {foreseen('forward'):.0f} s")
            problem = problem_of(num_points, at, device)
            for row in measured(method, problem, foreseen):
                if "seconds" in row:
                    last[row["pass"]] = (num_points, row["seconds"])
                yield {**about, "clouds": len(problem.x), "radius": problem.radius, **row}
        except (NotRun, RuntimeError, MemoryError, ImportError) as error:  # a peer's failure is a result too
            yield {**about, "status": f"not run: {str(error).splitlines()[0][:100]}"}


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """How our fastest backend grows with N, and how many times longer attention takes."""
    fast = "triton" if torch.cuda.is_available() else "native"

    def seconds(method: str, at: str, name: str) -> dict[int, float]:
        chosen = (row for row in rows if (row["method"], row["at"], row["pass"]) == (method, at, name))
        return {row["points"]: row["seconds"] for row in chosen if row["status"] == "ok"}

    for name in ("forward", "forward+backward"):
        ours, others = (seconds(method, "fixed radius", name) for method in (fast, "scaled_dot_product_attention"))
        for num_points in sorted(ours.keys() & others.keys()):
            yield f"{name}, N = {num_points}: attention takes {others[num_points] / ours[num_points]:.1f} times as long"
        line = {n: t for n, t in seconds(fast, "fixed neighbours", name).items() if 8192 <= n <= 262144}
        if len(line) > 1:
            slope = np.polyfit(np.log(list(line)), np.log(list(line.values())), 1)[0]
            yield f"{name}, fixed neighbours: seconds grow as N^{slope:.2f} from {min(line)} to {max(line)} points"
    without = seconds(fast, "fixed radius", "forward+backward")
    for num_points, both in seconds(fast, "fixed radius", "all").items():
        yield f"N = {num_points}: the bandwidths' gradient costs {both / without[num_points] - 1:.0%} more"


COLUMNS = ("at", "method", "points", "clouds", "radius", "pass", "seconds", "mib", "error", "setup", "status")


def main() -> None:
    """Print the table and write the csv."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    print(hardware_name())
    print("".join(f"{name:>18}" for name in COLUMNS[2:]))
    for at in options.at:
        for method in options.methods:
            print(f"{at}, {method}", flush=True)
            for row in cells(method, at, device):
                rows.append({name: row.get(name, "") for name in COLUMNS})
                shown = (f"{value:.3g}" if isinstance(value, float) else value for value in rows[-1].values())
                print("".join(f"{value:>18}" for value in list(shown)[2:]), flush=True)
                write_csv(options.output, rows, heads=NUM_HEADS, channels=NUM_CHANNELS, threads=torch.get_num_threads())
    print("\n".join(summary(rows)))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--at", nargs="+", choices=("fixed radius", "fixed neighbours"))
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that a pass may take")
    parser.add_argument("--memory", type=float, default=16.0, help="the most GiB that a pass may take")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    options.at = options.at or ["fixed radius", "fixed neighbours"]
    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    torch.set_num_threads(1)
    main()
