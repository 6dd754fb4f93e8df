"""Error of learned scores against the number of particles, on an exact law: python benchmarks/cardinality.py

Eight shapes, each a mixture of eight Gaussians in R^3 (`ShapeMixture`), have an exact score at every N and t. Networks
of about equal size are trained for equal processor seconds on levels of 64 to 512 particles: the mean-field network,
the same with only its global or only its local interaction, the same without B, and a set transformer. Each is then
compared with the exact score at 64 to 65,536 particles, at times where the interaction matters. The error is the mean
square error of v over the part of v that no network could know without the others: 1 is what the best per-particle
score has. Prints a table, writes cardinality.csv beside this file, with the hardware's name, and draws
docs/pictures/cardinality.png.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from hardware import hardware_name, write_csv
from torch import Tensor, nn

from mfcdm.analytic import GaussianMixture, ShapeMixture
from mfcdm.networks import ScoreNetwork
from mfcdm.networks.embeddings import FourierFeatures, TimeEmbedding
from mfcdm.networks.parametrization import noise_from_x_0, target, x_0_from_score
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.optimizers import build_optimizers

SDE = CosineVPSDE()
TRAINED, LEVELS, BATCH = 512, 4, 16
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
LOG_SNR = (-4.0, -3.0, -2.0, -1.0, 0.0)
WARMUP = 50


def law() -> ShapeMixture:
    """Eight random shapes about one centre."""
    generator = torch.Generator().manual_seed(0)
    return ShapeMixture([GaussianMixture(torch.randn(8, 3, generator=generator), 0.15) for _ in range(8)])


class SetTransformer(nn.Module):
    """Induced set attention blocks on Fourier features, with time added to every particle.

    Args:
        width: of the states.
        depth: blocks.
        num_inducing: points that read the set and write it back.

    Source: Lee et al., Set Transformer (2019), equations 6 to 11, with layer norms before the attention.
    """

    dim = 3

    def __init__(self, width: int = 40, depth: int = 3, num_inducing: int = 16) -> None:
        super().__init__()
        self.features, self.time = FourierFeatures(3), TimeEmbedding(width)
        self.embed = nn.Linear(self.features.num_features, width)
        self.inducing = nn.ParameterList(nn.Parameter(torch.randn(num_inducing, width)) for _ in range(depth))
        self.read = nn.ModuleList(AttentionBlock(width) for _ in range(depth))
        self.write = nn.ModuleList(AttentionBlock(width) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor, t: Tensor, lengths: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Predict v, (B, N, 3)."""
        h = self.embed(self.features(x)) + self.time(t)[:, None]
        for inducing, read, write in zip(self.inducing, self.read, self.write, strict=True):
            h = write(h, read(inducing[None].expand(len(x), -1, -1), h))
        return self.out(self.norm(h))


class AttentionBlock(nn.Module):
    """MAB(X, Y): X attends to Y, then a perceptron, each with its residual."""

    def __init__(self, width: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_x, self.norm_y, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, N, width), y (B, M, width) -> (B, N, width)."""
        query = self.query(self.norm_x(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(self.norm_y(y)).unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2).chunk(2, 1)
        found = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(found)
        return x + self.mlp(self.norm(x))


def mean_field(*interactions: str) -> ScoreNetwork:
    """The network between `tiny` and `small`; at 512 particles the radius is twice the default."""
    return ScoreNetwork(width=48, depth=2, num_moments=16, radius=(0.8, 4.0), interactions=interactions)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mean field": lambda: mean_field("local", "global"),
    "global only": lambda: mean_field("global"),
    "local only": lambda: mean_field("local"),
    "without B": lambda: mean_field(),
    "set transformer": SetTransformer,
}


def train(name: str, seconds: float, seed: int) -> tuple[nn.Module, int]:
    """Train for so many processor seconds, with a cosine decay over them."""
    torch.manual_seed(seed)
    network, clouds, generator = NETWORKS[name](), law(), torch.Generator().manual_seed(seed)
    objective = MeanFieldScoreMatching(SDE, Subdivision.dyadic(TRAINED, LEVELS))
    optimizers = build_optimizers(network, "adamw", 3e-3, weight_decay=0.0)
    begun, steps = time.process_time(), 0
    while (share := (time.process_time() - begun) / seconds) < 1:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = 3e-3 * min(1.0, (steps + 1) / WARMUP) * (1 - share)
        loss = objective(network, clouds.sample(BATCH, TRAINED, generator), generator=generator)
        network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        steps += 1
    return network.eval(), steps


def v_of(score: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v of a score."""
    x_0 = x_0_from_score(score, x, alpha, sigma)
    return target("v", x_0, noise_from_x_0(x_0, x, alpha, sigma), alpha, sigma)


@torch.no_grad()
def errors(network: nn.Module, num_particles: int) -> tuple[float, float]:
    """Mean square error of v, and that of the best score of one particle alone."""
    clouds, generator = law(), torch.Generator().manual_seed(num_particles)
    alone = GaussianMixture(torch.cat([shape.means for shape in clouds.shapes]), 0.15)
    num_clouds = max(2, min(64, 2**15 // num_particles))
    own, best = [], []
    for log_snr in LOG_SNR:
        t = SDE.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64)).float().expand(num_clouds)
        alpha, sigma = (coefficient(t)[:, None, None] for coefficient in (SDE.alpha, SDE.sigma))
        x_0 = clouds.sample(num_clouds, num_particles, generator)
        x = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator)
        exact = v_of(clouds.score(x, t, SDE), x, alpha, sigma)
        predicted = torch.cat([network(*part) for part in zip(x.split(4), t.split(4), strict=True)])
        own.append(float((predicted - exact).square().mean()))
        best.append(float((v_of(alone.score(x, t, SDE), x, alpha, sigma) - exact).square().mean()))
    return sum(own) / len(own), sum(best) / len(best)


def work(name: str, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Train one network and compare it at every size."""
    torch.set_num_threads(1)
    network, steps = train(name, seconds, seed)
    about = {"network": name, "seed": seed, "steps": steps}
    about["parameters"] = sum(weight.numel() for weight in network.parameters())
    rows = []
    for num_particles in SIZES:
        own, best = errors(network, num_particles)
        rows.append({**about, "particles": num_particles, "error": round(own / best, 4), "mse_v": round(own, 6)})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The error against N, one line a network: mean over the seeds."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        means = [[row["error"] for row in mine if row["particles"] == size] for size in SIZES]
        axes.plot(SIZES, [sum(own) / len(own) for own in means], marker="o", markersize=3, label=name)
    axes.axvspan(TRAINED / 2 ** (LEVELS - 1), TRAINED, color="0.92", label="trained with")
    axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="particles", ylabel="error of v, over that of the best score without B")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table, write the csv and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="processor seconds of training a network")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="networks side by side")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    pictures = Path(__file__).resolve().parents[1] / "docs" / "pictures"
    parser.add_argument("--picture", type=Path, default=pictures / "cardinality.png")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*json.loads(options.worker))))
        return

    def run(call: tuple[str, float, int]) -> list[dict[str, Any]]:
        command = [sys.executable, __file__, "--worker", json.dumps(call)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout.splitlines()[-1]))

    torch.set_num_threads(1)  # of every network, and so in the hardware's name
    print(hardware_name())
    calls = [(name, options.seconds, seed) for name in options.networks for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [row for found in pool.map(run, calls) for row in found]
    for name in options.networks:
        mine = [row for row in rows if row["network"] == name]
        found = [[row["error"] for row in mine if row["particles"] == size] for size in SIZES]
        shown = "  ".join(f"{size}: {sum(own) / len(own):.3f}" for size, own in zip(SIZES, found, strict=True))
        print(f"{name} ({mine[0]['parameters']} parameters, {mine[0]['steps']} steps)  {shown}")
    write_csv(options.output, rows, seconds=options.seconds)
    draw(rows, options.picture)


if __name__ == "__main__":
    main()
