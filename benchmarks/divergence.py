"""Multiplicative noise with and without div D, on geometric Brownian motion: python benchmarks/divergence.py

dy = div D dt + G dB from y = 1 in every one of 3 coordinates, with no score and g = 1, until T = 0.5, in 50 substeps of
the samplers. Exactly, E y = e^(div T) y and E y^2 = e^((2 div + d) T) y^2: d is 1 coordinate by coordinate and 3 in the
isotropic form, div is 1, and 0 where div D is left out: those samples lie in the wrong place.
Prints a table and writes divergence.csv beside this file, with the hardware's name.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from hardware import hardware_name, write_csv

from mfcdm.samplers import Geometric, LinearNoise
from mfcdm.samplers.base import System
from mfcdm.samplers.multiplicative import FORMS, MultiplicativeSampler

DIM, END, NUM_STEPS = 3, 0.5, 50
NO_SCORE = 1e6  # sigma: the score (m - y) / sigma^2 is 1e-12


def moments(sampler: MultiplicativeSampler, factor: float, num_paths: int) -> dict[str, Any]:
    """E y and E y^2 of the paths, with their standard errors, and what they should be."""
    system = System(lambda x, t, lengths=None: x, torch.Generator().manual_seed(0), None, None)
    y, div = torch.ones(1, num_paths, DIM, dtype=torch.float64), torch.tensor(factor, dtype=torch.float64)
    for _ in range(NUM_STEPS):
        y = sampler.multiply(y, y, NO_SCORE, END / NUM_STEPS / NO_SCORE**2, div, system)
    square, d = y.square().mean(dim=-1), 1 if sampler.form == "coordinate" else DIM
    mean, root = y.mean(dim=-1), math.sqrt(num_paths)
    return {
        "mean": float(mean.mean()),
        "mean_error": float(mean.std()) / root,
        "mean_exact": math.exp(factor * END),
        "square": float(square.mean()),
        "square_error": float(square.std()) / root,
        "square_exact": math.exp((2 * factor + d) * END),
    }


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=200_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    print(f"{hardware_name()}; {options.paths} paths")
    rows = []
    for sampler in (make(form=form) for form in FORMS for make in (LinearNoise, Geometric)):
        for factor in (1.0, 0.0):
            found = moments(sampler, factor, options.paths)
            about = {"sampler": type(sampler).__name__, "form": sampler.form, "div_d": bool(factor)}
            rows.append({**about, **found, "paths": options.paths, "substeps": NUM_STEPS})
            kept = "with div D" if factor else "without"
            print(
                f"{type(sampler).__name__:<12} {sampler.form:<11} {kept:<11}"
                + "".join(
                    f"  {found[key]:.4f} ± {found[key + '_error']:.4f}, exact {found[key + '_exact']:.4f}"
                    for key in ("mean", "square")
                ),
                flush=True,
            )
    write_csv(options.output, rows)


if __name__ == "__main__":
    main()
