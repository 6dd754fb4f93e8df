"""How much averaging over batches flatters: python benchmarks/pooling.py [FILE.npz]

1-NNA by chamfer distance of a bad generator against real clouds, over the full sets and averaged over batches, under
one protocol otherwise. The bad generators take real clouds of split `train` and change them: `stretched` lengthens one
axis, `few shapes` repeats an eighth of the clouds with a little noise, `noisy` moves every point. Without a file the
real clouds are the embedded shapes. Prints a table and writes pooling.csv beside this file, with the hardware's name.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hardware import hardware_name, write_csv
from torch import Tensor

from mfcdm.datasets import Clouds, ParametricShapes, open_dataset
from mfcdm.evaluation import Protocol, evaluate

PROTOCOL = Protocol(metrics=("cd",), num_permutations=100)
BATCHES = (64, 32, 16, 8)


def real(path: str | None, split: str, count: int, num_points: int, seed: int) -> Tensor:
    """Clouds of a split, drawn without replacement, with points drawn likewise, (count, N, 3)."""
    dataset = ParametricShapes(500, 2 * num_points, split=split) if path is None else open_dataset(path, split=split)
    clouds = Clouds.of(dataset).points()
    g = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(clouds), generator=g)[:count].tolist()
    return torch.stack([clouds[i][torch.randperm(len(clouds[i]), generator=g)[:num_points]] for i in kept])


def generators(x: Tensor, seed: int) -> dict[str, Tensor]:
    """What bad generators make of real clouds."""
    g = torch.Generator().manual_seed(seed)
    size = float(x.std(dim=1).norm(dim=1).mean())
    stretch = torch.tensor([1.3, 1.0, 1.0])
    shapes = max(1, len(x) // 8)
    order = torch.stack([torch.randperm(x.shape[1], generator=g) for _ in range(len(x))])
    repeated = x[torch.arange(len(x)) % shapes].gather(1, order[..., None].expand(-1, -1, 3))
    repeated = repeated + 0.01 * size * torch.randn(x.shape, generator=g)
    noisy = x + 0.08 * size * torch.randn(x.shape, generator=g)
    return {"real": x, "stretched": x * stretch, "few shapes": repeated, "noisy": noisy}


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", help="archive with the splits train and val; default the embedded shapes")
    parser.add_argument("--clouds", type=int, default=96)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    reference = real(options.path, "val", options.clouds, options.points, options.seed)
    train = real(options.path, "train", len(reference), options.points, options.seed + 1)
    rows: list[dict[str, Any]] = []
    print(f"{hardware_name()}; {len(reference)} against {len(train)} clouds of {options.points} points, 1-NNA-CD in %")
    sizes = [size for size in BATCHES if size <= len(reference)]
    print(f"{'generator':<12} {'full sets':>9} " + " ".join(f"{f'batches of {size}':>14}" for size in sizes))
    for name, x in generators(train, options.seed).items():
        full = 100 * evaluate(Clouds(x), Clouds(reference), PROTOCOL)["1nna-cd"].value
        row: dict[str, Any] = {"generator": name, "full": round(full, 1)}
        for size in sizes:
            protocol = replace(PROTOCOL, pooling="batches", batch_size=size)
            row[f"batches_{size}"] = round(100 * evaluate(Clouds(x), Clouds(reference), protocol)["1nna-cd"].value, 1)
        rows.append(row)
        print(f"{name:<12} {full:>9.1f} " + " ".join(f"{row[f'batches_{size}']:>14.1f}" for size in sizes), flush=True)
    data = "shapes" if options.path is None else Path(options.path).stem
    write_csv(options.output, rows, data=data, clouds=len(reference), points=options.points, seed=options.seed)


if __name__ == "__main__":
    main()
