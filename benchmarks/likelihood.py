"""Likelihood by the probability flow against closed forms, over N: python benchmarks/likelihood.py

Exact laws, clouds noised to t_min. For each law, cardinality and way to the divergence: nats per point, closed form and
root mean square error over the clouds, the standard error that the probes report, evaluations and seconds a cloud.
Then the chaotic entropy (1/N) KL(p^N || product of one-particle laws) of exchangeable Gaussians, estimated from the
flow's likelihoods of p, beside the closed form: it vanishes where c is fixed and stays where c grows with N.
Prints tables and writes likelihood.csv beside this file, with the hardware's name.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from hardware import hardware_name, write_csv
from torch import Tensor

from mfcdm.analytic import ExchangeableGaussian, GaussianMixture, Law, ShapeMixture
from mfcdm.likelihood import chaotic_entropy, log_likelihood
from mfcdm.randomness import cloud_generators
from mfcdm.sde import CosineVPSDE

SDE = CosineVPSDE()


def laws() -> dict[str, Law]:
    """One of each kind, always the same."""
    generator = torch.Generator().manual_seed(3)
    shapes = [GaussianMixture(torch.randn(5, 3, generator=generator), 0.15) for _ in range(3)]
    return {
        "exchangeable gaussian": ExchangeableGaussian(a=0.5, c=4.0),
        "gaussian mixture": shapes[0],
        "shape mixture": ShapeMixture(shapes),
    }


def noised(law: Law, num_clouds: int, num_particles: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clouds (B, N, D) at t_min and their exact log-densities (B,), float64."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.full((num_clouds,), SDE.t_min, dtype=torch.float64)
    mean, std = SDE.marginal(law.sample(num_clouds, num_particles, generator, dtype=torch.float64), t)
    x = mean + std[:, None, None] * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    return x, law.log_prob(x, t, SDE)


def likelihood_row(name: str, num_particles: int, divergence: str, num_clouds: int, probes: int) -> dict[str, Any]:
    """One row of the first table."""
    law = laws()[name]
    x, exact = noised(law, num_clouds, num_particles, seed=1)
    exact = exact / num_particles
    begun = time.perf_counter()
    found = log_likelihood(
        law.as_score(SDE),
        SDE,
        x,
        generator=cloud_generators(0, range(num_clouds)),
        divergence=divergence,  # type: ignore[arg-type]
        num_probes=probes,
    )
    return {
        "law": name,
        "num_particles": num_particles,
        "divergence": divergence,
        "probes": probes,
        "nats_per_point": float(found.per_point.mean()),
        "exact": float(exact.mean()),
        "rms_error": float((found.per_point - exact).square().mean().sqrt()),
        "standard_error": float(found.standard_error.square().mean().sqrt()),
        "evaluations": float(found.evaluations.double().mean()),
        "seconds_a_cloud": (time.perf_counter() - begun) / num_clouds,
    }


def entropy_row(growing: bool, num_particles: int, num_clouds: int) -> dict[str, Any]:
    """One row of the second table: c = 4, or c = a N / 2."""
    a, n = 0.5, num_particles
    law = ExchangeableGaussian(a, a * n / 2 if growing else 4.0)
    x, _ = noised(law, num_clouds, n, seed=2)
    t = torch.full((num_clouds,), SDE.t_min, dtype=torch.float64)
    product = ExchangeableGaussian(a + law.c / n, 0.0)
    begun = time.perf_counter()
    generators = cloud_generators(0, range(num_clouds))
    flow = log_likelihood(law.as_score(SDE), SDE, x, generator=generators, num_probes=8, rtol=1e-4, atol=1e-4)
    found = chaotic_entropy(flow.log_likelihood, product.log_prob(x, t, SDE), n)
    alpha, sigma = float(SDE.alpha(t[0])), float(SDE.sigma(t[0]))
    one, alone, both = (alpha**2 * v + sigma**2 for v in (a + law.c / n, a, a + law.c))
    exact = law.dim / (2 * n) * (n * math.log(one) - (n - 1) * math.log(alone) - math.log(both))
    return {
        "law": "entropy, c = aN/2" if growing else "entropy, c = 4",
        "num_particles": n,
        "nats_per_point": found.value,
        "exact": exact,
        "standard_error": found.standard_error,
        "seconds_a_cloud": (time.perf_counter() - begun) / num_clouds,
    }


def main() -> None:
    """Print the tables and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-particles", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--clouds", type=int, default=4)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    print(f"{hardware_name()}; {options.clouds} clouds, {options.probes} probes")
    print(
        f"{'law':<22} {'N':>5} {'divergence':<11} {'nats':>8} {'exact':>8} {'error':>7} {'+-':>7} {'nfev':>5} {'s':>6}"
    )
    rows = []
    for name in laws():
        for n in options.num_particles:
            for divergence in ("rademacher", "axes"):
                row = likelihood_row(name, n, divergence, options.clouds, options.probes)
                rows.append(row)
                print(
                    f"{name:<22} {n:>5} {divergence:<11} {row['nats_per_point']:>8.4f} {row['exact']:>8.4f} "
                    f"{row['rms_error']:>7.4f} {row['standard_error']:>7.4f} {row['evaluations']:>5.0f} "
                    f"{row['seconds_a_cloud']:>6.2f}",
                    flush=True,
                )
    print(f"{'chaotic entropy':<22} {'N':>5} {'nats per particle':>18} {'exact':>8} {'+-':>7}")
    for growing in (False, True):
        for n in options.num_particles:
            row = entropy_row(growing, n, 8 * options.clouds)
            rows.append({**rows[0], **dict.fromkeys(rows[0], ""), **row})
            print(f"{row['law']:<22} {n:>5} {row['nats_per_point']:>18.4f} {row['exact']:>8.4f} "
                  f"{row['standard_error']:>7.4f}", flush=True)  # fmt: skip
    write_csv(options.output, rows, clouds=options.clouds)


if __name__ == "__main__":
    main()
