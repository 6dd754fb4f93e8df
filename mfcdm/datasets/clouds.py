"""Clouds in memory, of one or of mixed cardinality, and their normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mfcdm.datasets.memory import check_fits, memory
from mfcdm.datasets.moments import Moments
from mfcdm.datasets.precision import check_precision
from mfcdm.wording import counted

Scheme = Literal["global", "per_shape", "box"]
SCHEMES: tuple[Scheme, ...] = ("global", "per_shape", "box")


class CloudDataset(Protocol):
    """What every data set here is: items {"x": (N_i, D) float tensor, "label": int}; the label may be missing.

    Two further members are used where a data set has them: `categories`, names of the classes, and `source(index)`,
    where a cloud comes from, for complaints.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Clouds:
    """A set of clouds, padded to one shape.

    Args:
        x: (S, N, D) floating, 0 on padding.
        lengths: (S,) int64 points that each cloud owns, None where all own N.
        labels: (S,) int64 classes, or None.
        categories: names of the classes, where known.
    """

    x: Tensor
    lengths: Tensor | None = None
    labels: Tensor | None = None
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: CloudDataset) -> Clouds:
        """Read a whole data set.

        Raises:
            ValueError: if it is empty, or a cloud is empty, not (N, D), not finite, or of another dimension.
            MemoryError: as soon as the clouds would fill more than half of the machine's memory.
        """
        items, size, most = [], 0, memory() // 2
        for index in range(len(dataset)):
            items.append(dataset[index])
            size += 4 * torch.as_tensor(items[-1]["x"]).numel()
            if size > most:
                check_fits(size, f"the first {index + 1} of {len(dataset)} clouds")
        points = [torch.as_tensor(item["x"]) for item in items]
        labels = [item.get("label") for item in items]
        source = getattr(dataset, "source", None)
        return cls.join(
            points,
            names=None if source is None else [source(index) for index in range(len(items))],
            labels=None if any(label is None for label in labels) else torch.tensor(labels, dtype=torch.int64),
            categories=tuple(getattr(dataset, "categories", ())),
        )

    @classmethod
    def join(
        cls,
        points: Sequence[Tensor],
        labels: Tensor | None = None,
        categories: tuple[str, ...] = (),
        names: Sequence[str] | None = None,
    ) -> Clouds:
        """Pad clouds (N_i, D) to one shape; complaints call them by `names`, or by their position.

        Raises:
            ValueError: if there is no cloud, or one is empty, not (N, D), not finite, of another dimension, or so far
                from the origin that float32 is too coarse for it.
            MemoryError: if the padded clouds do not fit into memory.
        """
        if not points:
            raise ValueError("at least one cloud is needed, got none")
        dim = points[0].shape[-1] if points[0].ndim == 2 else None
        for index, cloud in enumerate(points):
            check_cloud(cloud, f"cloud {index}" if names is None else names[index], dim)
            check_precision(cloud, f"cloud {index}" if names is None else names[index])
        lengths = torch.tensor([len(cloud) for cloud in points])
        size = len(points), int(lengths.max()), points[0].shape[1]
        check_fits(4 * math.prod(size), f"the clouds, padded to {size},")
        x = torch.nn.utils.rnn.pad_sequence([cloud.float() for cloud in points], batch_first=True)
        return cls(x, None if bool((lengths == lengths[0]).all()) else lengths, labels, categories)

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Clouds:
        """Some of the clouds."""
        lengths = None if self.lengths is None else self.lengths[index]
        labels = None if self.labels is None else self.labels[index]
        return replace(self, x=self.x[index], lengths=lengths, labels=labels)

    def cloud(self, index: int, rows: Tensor | None = None) -> Tensor:
        """Cloud `index`, (N_i, D), without padding; or so many of its points, by number."""
        x = self.x[index] if self.lengths is None else self.x[index, : int(self.lengths[index])]
        return x if rows is None else x[rows]

    def each(self) -> Iterator[Tensor]:
        """The clouds one by one, (N_i, D), without padding."""
        return (self.cloud(index) for index in range(len(self)))

    def points(self) -> list[Tensor]:
        """All clouds, (N_i, D), without padding."""
        return list(self.each())

    def map(self, change: Callable[[Tensor, int], Tensor], pointwise: bool = False) -> Clouds:
        """The set with every cloud changed.

        Args:
            change: from a cloud (N_i, D) and its position in the set to the new cloud.
            pointwise: whether a new point depends on the old one alone.
        """
        return Clouds.join([change(x, index) for index, x in enumerate(self.each())], self.labels, self.categories)

    def moments(self) -> Moments:
        """Mean and spread of all points."""
        return Moments.of(self.each())

    @property
    def smallest(self) -> tuple[int, int]:
        """(index, points) of the cloud with the fewest points."""
        if self.lengths is None:
            return 0, self.x.shape[1]
        index = int(self.lengths.argmin())
        return index, int(self.lengths[index])


class Normalization(NamedTuple):
    """Affine map between the data's coordinates and the network's: normalised = (x - mean) / std.

    Args:
        mean: (D,).
        std: scalar tensor, one for all axes, so that shapes are not distorted.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, clouds: Clouds) -> Normalization:
        """One mean and one standard deviation over all points of all clouds.

        Raises:
            ValueError: if all points coincide.
        """
        moments = clouds.moments()
        mean, std = moments.known_mean, torch.tensor(moments.std)
        if not float(std) > 0:
            raise ValueError(f"all points ({moments.count}) coincide at {mean.tolist()}, so they cannot be normalised")
        return cls(mean.float(), std.float())

    def apply(self, x: Tensor) -> Tensor:
        """Data to normalised coordinates, (..., D)."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def undo(self, x: Tensor) -> Tensor:
        """Normalised to data coordinates, (..., D)."""
        return x * self.std.to(x) + self.mean.to(x)


def rescaled(clouds: Clouds, scheme: Scheme) -> Clouds:
    """Bring each cloud to a common place and size first, where a scheme asks for it.

    "global": nothing. "per_shape": mean 0 and standard deviation 1 for each cloud. "box": centred on the bounding box,
    longest side 1, for each cloud. What is lost by the last two, each cloud's own place and size, is not learned.

    Raises:
        ValueError: if the scheme is unknown, or a cloud's points coincide under the last two.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"normalization must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if scheme == "global":
        return clouds

    def own_scale(x: Tensor, index: int) -> Tensor:
        if scheme == "per_shape":
            center = x.mean(dim=0)
            size = (x - center).square().mean().sqrt()
        else:
            low, high = x.aminmax(dim=0)
            center, size = (low + high) / 2, (high - low).max()
        if not float(size) > 0:
            raise ValueError(
                f"all points ({len(x)}) of cloud {index} coincide, so normalization={scheme!r} cannot scale it"
            )
        return (x - center) / size

    return clouds.map(own_scale)


def check_cloud(x: Tensor, name: str, dim: int | None) -> None:
    """Refuse what is no cloud (N, D) of dimension `dim`.

    Raises:
        ValueError: if it is empty, not (N, D), not finite, or of another dimension.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be (N, D) with N and D >= 1, got {tuple(x.shape)}")
    if x.shape[1] != dim:
        raise ValueError(f"{name} has dimension {x.shape[1]}, the ones before it {dim}")
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite().all(dim=1)).sum())
        raise ValueError(f"{name} has {counted(bad, 'point')} with NaN or infinite coordinates")
