"""How two sets of clouds are compared, as an object: a number without it cannot be reproduced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

DrawPoints = Literal["random", "first", "all"]
Unequal = Literal["subset", "refuse"]
Scale = Literal["none", "reference", "per_shape", "box"]
Solver = Literal["exact", "exact_all_pairs", "sinkhorn"]
Pooling = Literal["full", "batches"]
Distance = Literal["cd", "emd", "jsd"]


@dataclass(frozen=True)
class Protocol:
    """How a generated set is compared with a reference set.

    Args:
        name: of the protocol; a changed preset keeps its name, so the report holds every value.
        split: of the reference, where its file has splits.
        num_points: of each cloud, at most; where a cloud of either set has fewer, all clouds of both sets get as many
            as it has. None: as many as the smallest cloud has.
        draw_points: "random": a random subset without replacement; "first": the first ones; "all": clouds stay as they
            are, of mixed cardinality, and num_points must be None.
        unequal: sets of different size: "subset": a random subset of the larger one, without replacement; "refuse".
        normalization: "none": coordinates as they are in the files; "reference": one mean and standard deviation, of
            all points of the reference, for both sets; "per_shape" and "box": each cloud by itself (see
            `mfcdm.datasets.rescaled`).
        metrics: of "cd", "emd" and "jsd".
        emd: "exact": optimal transport, pairs that cannot be nearest left out by proof; "exact_all_pairs": the full
            matrices, hours for hundreds of clouds; "sinkhorn": a lower bound of the exact one, named so in the keys.
        emd_floors: whether "exact" also finds the distances that the noise floors of minimum matching distance and
            coverage need; those of 1-NNA need no others.
        pooling: "full": over whole sets; "batches": scores are averaged over batches of `batch_size` clouds, which
            flatters and is here for comparison with those who do it.
        batch_size: of pooling in batches.
        jsd_resolution: cells along an axis.
        jsd_bounds: (low, high) of the grid's box along every axis; None: the reference's own box, a tenth larger. All
            space outside is one more cell; nothing is clipped.
        confidence: of the intervals.
        num_permutations: of labels, for intervals and noise floors.
        seed: of all draws.

    Raises:
        ValueError: if a value is unknown, out of range, or does not fit another.
    """

    name: str = "mfcdm"
    split: str = "val"
    num_points: int | None = 2048
    draw_points: DrawPoints = "random"
    unequal: Unequal = "subset"
    normalization: Scale = "none"
    metrics: Sequence[str] = ("cd", "emd", "jsd")
    emd: Solver = "exact"
    emd_floors: bool = True
    pooling: Pooling = "full"
    batch_size: int | None = None
    jsd_resolution: int = 28
    jsd_bounds: Sequence[float] | None = None
    confidence: float = 0.95
    num_permutations: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        for key, kind in (
            ("draw_points", DrawPoints),
            ("unequal", Unequal),
            ("normalization", Scale),
            ("emd", Solver),
            ("pooling", Pooling),
        ):
            if getattr(self, key) not in get_args(kind):
                raise ValueError(f"{key} must be one of {', '.join(get_args(kind))}, got {getattr(self, key)!r}")
        if not self.metrics or not set(self.metrics) <= set(get_args(Distance)):
            raise ValueError(f"metrics must be some of {', '.join(get_args(Distance))}, got {list(self.metrics)}")
        if self.draw_points == "all" and self.num_points is not None:
            raise ValueError(
                f"draw_points=all keeps clouds as they are, so num_points must be null, not {self.num_points}"
            )
        for key, least in (("num_points", 2), ("batch_size", 2), ("jsd_resolution", 1), ("num_permutations", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} must be at least {least}, got {value}")
        if (self.pooling == "batches") != (self.batch_size is not None):
            raise ValueError(f"pooling={self.pooling} does not go with batch_size={self.batch_size}")
        if self.jsd_bounds is not None and not _rise(self.jsd_bounds):
            raise ValueError(f"jsd_bounds must be two finite numbers that rise, or null, got {list(self.jsd_bounds)}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")

    def in_words(self) -> str:
        """One line for the head of a table."""
        points = {
            "all": "all points",
            "first": f"the first {self.num_points or 'common'} points",
            "random": f"{self.num_points or 'as many as common'} random points",
        }[self.draw_points]
        pooled = "over full sets" if self.pooling == "full" else f"AVERAGED OVER BATCHES OF {self.batch_size}: flatters"
        return f"{self.name}: {points} a cloud, normalization {self.normalization}, EMD {self.emd}, {pooled}"


def _rise(bounds: Sequence[float]) -> bool:
    """Whether bounds are two, with a finite length above 0 between them."""
    return len(bounds) == 2 and 0 < bounds[1] - bounds[0] < math.inf


PROTOCOLS: dict[str, Protocol] = {
    "mfcdm": Protocol(),
    # PointFlow's released test.py and datasets.py: the loader takes split `val` (paper and README say test; its issue
    # 11: the paper's numbers are from the released code); the first 2,048 of a cloud's last 5,000 points; both sets
    # brought back to the data's own coordinates; full matrices, whatever the batch size; equal sizes. Its EMD is an
    # approximation on a GPU and its occupancy grid is clipped to a ball; neither is reproduced: ours are exact.
    "pointflow": Protocol(name="pointflow", draw_points="first", unequal="refuse", jsd_bounds=(-0.5, 0.5)),
    # PVD's released test_generation.py: the same split, points, coordinates and pooling as PointFlow's, from a saved
    # samples.pth. Its EMD is another approximation, whose values are about a tenth of PointFlow's (its issue 4).
    "pvd": Protocol(name="pvd", draw_points="first", unequal="refuse", jsd_bounds=(-0.5, 0.5)),
}
