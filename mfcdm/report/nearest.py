"""The training shape that is nearest to a generated cloud, and what its distance is to be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mfcdm.datasets import Clouds
from mfcdm.metrics import pairwise
from mfcdm.randomness import cloud_generators

MAX_POINTS = 512  # of each cloud that are compared
MAX_SHAPES = 20_000  # training shapes among which the nearest is looked for
MAX_READ = 2**30  # bytes of them: a set that lies in files, as it is larger than memory, is not read through
NUM_CANDIDATES = 32  # of them whose distance is computed
NUM_FREQUENCIES, BANDWIDTH = 64, 0.2  # of the screening; the bandwidth in standard deviations of all points

# Streams of `cloud_generators` for one seed; 0 to 9 are those of sampling, training and validation.
SHAPES, GENERATED, FREQUENCIES = 10, 11, 12


@dataclass(frozen=True)
class Match:
    """A generated cloud's nearest training shape; distances are `mfcdm.metrics.chamfer_distance` of random subsets.

    Args:
        index: of the training shape.
        distance: to it.
        neighbour: of another sampling of that shape to the nearest other training shape; None where there is none.
        floor: between two samplings of that shape; None where it has too few points for two. A copy is as near.
        num_points: of every subset.
        num_shapes: training shapes that were looked through.
    """

    index: int
    distance: float
    neighbour: float | None
    floor: float | None
    num_points: int
    num_shapes: int


def matches(generated: Sequence[Tensor], training: Clouds, seed: int = 0) -> list[Match]:
    """The nearest training shape of each generated cloud.

    All clouds are compared on random subsets of one size, as chamfer distances of fewer points are larger. Where there
    are more than 32 training shapes, those 32 are compared whose mean embeddings are nearest,

        |E exp(i w.x) - E exp(i w.y)|,   w ~ N(0, I / bandwidth^2),

    an estimate of the maximum mean discrepancy of the two clouds: it is near 0 for a copy, and costs a hundredth. Of
    more than 20,000 training shapes, or more than 1 GiB of them, a random subset is looked through.

    Args:
        generated: clouds (N_i, D).
        training: clouds (M_j, D), in the same coordinates.
        seed: of the subsets and the frequencies.

    Raises:
        ValueError: if the dimensions differ.
    """
    if not generated:
        return []
    dims = sorted({training.x.shape[2], *(cloud.shape[1] for cloud in generated)})
    if len(dims) > 1:
        raise ValueError(f"generated and training clouds must be of one dimension, but are of {dims}")
    _, fewest = training.smallest
    size = min(MAX_POINTS, max(1, fewest // 2), *(len(cloud) for cloud in generated))
    (generator,) = cloud_generators(seed, [0], FREQUENCIES)
    most = max(1, min(MAX_SHAPES, MAX_READ // (4 * training.x[0].numel())))
    looked = torch.randperm(len(training), generator=generator)[:most].sort().values.tolist()
    shapes = torch.stack(
        [training.cloud(index, _rows(training, index, seed)[:size]) for index in looked]
    )  # (S, size, D)
    embed = _Embedding(shapes, generator)
    screened = embed(shapes)

    def match(cloud: Tensor) -> Match:
        at, distance = _nearest(cloud, shapes, (embed(cloud[None]) - screened).norm(dim=1))
        once, rows = shapes[at], _rows(training, looked[at], seed)
        enough = len(rows) >= 2 * size  # for another sampling without common points
        again = training.cloud(looked[at], rows[size : 2 * size]) if enough else once
        others = (embed(again[None]) - screened).norm(dim=1)
        others[at] = torch.inf
        return Match(
            index=looked[at],
            distance=distance,
            neighbour=_nearest(again, shapes, others)[1] if len(shapes) > 1 else None,
            floor=float(pairwise(once[None], again[None])) if enough else None,
            num_points=size,
            num_shapes=len(shapes),
        )

    generators = cloud_generators(seed, range(len(generated)), GENERATED)
    return [match(subset(cloud, size, generators[index])) for index, cloud in enumerate(generated)]


def subset(cloud: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """So many points of a cloud (N, D), drawn without replacement; all, in their order, where it has no more."""
    return cloud if len(cloud) <= size else cloud[torch.randperm(len(cloud), generator=generator)[:size]]


def _rows(training: Clouds, index: int, seed: int) -> Tensor:
    """The rows of a training shape in random order: two parts of them are samplings without common points."""
    count = training.x.shape[1] if training.lengths is None else int(training.lengths[index])
    return torch.randperm(count, generator=cloud_generators(seed, [index], SHAPES)[0])


def _nearest(cloud: Tensor, shapes: Tensor, screen: Tensor) -> tuple[int, float]:
    """Position of the shape nearest to a cloud among those that the screening puts first, and its distance."""
    candidates = screen.topk(min(NUM_CANDIDATES, len(screen)), largest=False).indices
    candidates = candidates[screen[candidates].isfinite()]
    distances = pairwise(cloud[None], shapes[candidates])[0]
    best = int(distances.argmin())
    return int(candidates[best]), float(distances[best])


class _Embedding:
    """Mean of random Fourier features over a cloud's points.

    Args:
        shapes: (S, N, D), whose spread sets the bandwidth.
        generator: of the frequencies.
    """

    def __init__(self, shapes: Tensor, generator: torch.Generator) -> None:
        self.center = shapes.mean(dim=(0, 1))
        spread = float((shapes - self.center).square().mean().sqrt())
        frequencies = torch.randn(shapes.shape[2], NUM_FREQUENCIES, generator=generator)
        self.frequencies = frequencies / (BANDWIDTH * spread if spread > 0 else 1.0)  # (D, F)

    def __call__(self, clouds: Tensor) -> Tensor:
        """(B, N, D) to (B, 2 F)."""
        parts = []
        for block in clouds.split(64):  # 64 clouds' features at a time
            phase = (block - self.center) @ self.frequencies.to(block)
            parts.append(torch.cat([phase.cos().mean(dim=1), phase.sin().mean(dim=1)], dim=1))
        return torch.cat(parts)
