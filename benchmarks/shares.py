"""Error by the rule that shares the steps out over the levels: python benchmarks/shares.py

The exact laws, levels and errors of branching.py: 64 to 2,048 particles in six levels, branching by Renoise. Rules give
a level steps in proportion to: the log-SNR that it covers ("log-SNR"), 1 ("uniform"), t ("time"), the log-SNR with more
at the end or at the beginning ("late", "last", "early": the last level's weight is 2, 4 or 1/2 times the first's), or
log-SNR over the root of the particles ("cost": the optimum for errors of first order if steps cost what particles do).
`mfcdm.generate.share_steps` is "late". Prints a table and writes shares.csv beside this file, with the hardware's name.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from branching import NUM_LEVELS, NUM_PARTICLES, SDE, cloud_errors, law
from hardware import hardware_name, write_csv

from mfcdm.branching import Renoise
from mfcdm.generate import generate_from_score, share_steps
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import DPMSolver, Langevin, Sampler
from mfcdm.samplers.grids import GRIDS, Grid, position
from mfcdm.subdivision import Subdivision

LEVELS = Subdivision.dyadic(NUM_PARTICLES, NUM_LEVELS, sde=SDE)
Rule = Callable[[list[float], list[float]], list[float]]  # (starts, ends) -> weights of the levels


def spans(starts: list[float], ends: list[float]) -> list[float]:
    """Log-SNR that each level covers."""
    covered = position(SDE, torch.tensor([starts, ends], dtype=torch.float64), "log_snr")
    return (covered[1] - covered[0]).tolist()


def ramp(first: float, last: float) -> Rule:
    """Log-SNR times a weight that goes from `first` to `last`."""
    return lambda starts, ends: [
        span * (first + (last - first) * k / (len(starts) - 1)) for k, span in enumerate(spans(starts, ends))
    ]


RULES: dict[str, Rule] = {
    "log-SNR": spans,
    "uniform": lambda starts, ends: [1.0] * len(starts),
    "time": lambda starts, ends: [start - end for start, end in zip(starts, ends, strict=True)],
    "late": ramp(1, 2),
    "last": ramp(1, 4),
    "early": ramp(2, 1),
    "cost": lambda starts, ends: [
        span / count**0.5 for span, count in zip(spans(starts, ends), LEVELS.cardinalities, strict=True)
    ],
}


def by_grid(grid: Grid) -> Rule:
    """What a level covers of a grid, weighted as in "late"."""

    def rule(starts: list[float], ends: list[float]) -> list[float]:
        covered = position(SDE, torch.tensor([starts, ends], dtype=torch.float64), grid)
        return [span * (1 + k / (len(starts) - 1)) for k, span in enumerate((covered[1] - covered[0]).abs().tolist())]

    return rule


def shared(num_steps: int, weights: list[float]) -> list[int]:
    """Steps a level in proportion to the weights, at least one: `share_steps` without its own weights."""
    lengths = torch.tensor([weight / (1 + k / (len(weights) - 1)) for k, weight in enumerate(weights)])
    ends = SDE.time_of_log_snr(torch.cat([torch.zeros(1), lengths.cumsum(0)]).double() * 10 / lengths.sum()).tolist()
    return share_steps(num_steps, ends[:-1], ends[1:], SDE)


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 50])
    parser.add_argument("--grid", choices=GRIDS, default="log_snr", help='of the samplers; adds the rule "grid"')
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    print(f"{hardware_name()}; {options.clouds} clouds of {NUM_PARTICLES}, {options.seeds} seeds")
    print(f"{'sampler':<10} {'rule':<8} {'steps a level':<26} {'particle steps':>14} {'error':>8} {'+-':>7}")
    rows = []
    samplers: list[Sampler] = [Langevin(grid=options.grid), DPMSolver(grid=options.grid)]
    rules = RULES if options.grid == "log_snr" else {"late": RULES["late"], "grid": by_grid(options.grid)}
    for num_steps in options.steps:
        for sampler in samplers:
            for name, rule in rules.items():
                row = measured(sampler.with_steps(num_steps), rule, options.clouds, options.seeds)
                rows.append({"sampler": type(sampler).__name__, "steps": num_steps, "rule": name, **row})
                print(
                    f"{rows[-1]['sampler']:<10} {name:<8} {row['steps_a_level']:<26} {row['particle_steps']:>14} "
                    f"{row['error']:>8.4f} {row['standard_error']:>7.4f}",
                    flush=True,
                )
                write_csv(options.output, rows, clouds=options.clouds, seeds=options.seeds, grid=options.grid)


def measured(sampler: Sampler, rule: Rule, num_clouds: int, seeds: int) -> dict[str, str | int | float]:
    """The error of clouds whose steps are shared out by a rule."""
    used: list[int] = []

    def by_rule(num_steps: int, starts: list[float], ends: list[float], *_: object) -> list[int]:
        used[:] = shared(num_steps, rule(starts, ends))
        return used

    errors = []
    with patch("mfcdm.generate.share_steps", by_rule):
        for seed in range(seeds):
            x = generate_from_score(
                law(seed).as_score(SDE),
                SDE,
                sampler,
                LEVELS,
                Renoise(),
                dim=3,
                num_clouds=num_clouds,
                num_particles=NUM_PARTICLES,
                generator=cloud_generators(seed, range(num_clouds)),
            )
            errors.append(cloud_errors(x, law(seed), seed=1000 + seed))
    every = torch.stack(errors)
    return {
        "steps_a_level": " ".join(map(str, used)),
        "particle_steps": sum(n * count for n, count in zip(used, LEVELS.cardinalities, strict=True)),
        "error": float(every.mean()),
        "standard_error": float(every.std() / every.numel() ** 0.5),
    }


if __name__ == "__main__":
    main()
