"""Two sets of clouds brought to what a protocol asks for, with a note for everything that was left out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mfcdm.datasets import Clouds, Normalization, rescaled
from mfcdm.evaluation.protocol import Protocol
from mfcdm.randomness import cloud_generators

# Streams of `cloud_generators`, away from those of sampling and training.
CLOUDS_KEPT, GENERATED_POINTS, REFERENCE_POINTS = 100, 101, 102


@dataclass(frozen=True)
class Prepared:
    """Sets that only have to be compared.

    Args:
        generated: as the protocol asks.
        reference: likewise.
        notes: sentences about what was drawn.
    """

    generated: Clouds
    reference: Clouds
    notes: tuple[str, ...]


def prepare(generated: Clouds, reference: Clouds, protocol: Protocol) -> Prepared:
    """Bring both sets to equal size, equal cardinality and one normalisation, as the protocol says.

    Raises:
        ValueError: if their dimensions differ, or their sizes do and the protocol refuses that, or they cannot be
            normalised.
    """
    if generated.x.shape[2] != reference.x.shape[2]:
        raise ValueError(
            f"generated clouds have points of dimension {generated.x.shape[2]}, "
            f"reference clouds of dimension {reference.x.shape[2]}"
        )
    notes: list[str] = []
    size = min(len(generated), len(reference))
    if len(generated) != len(reference) and protocol.unequal == "refuse":
        raise ValueError(
            f"{len(generated)} generated and {len(reference)} reference clouds: protocol {protocol.name} compares sets "
            "of equal size; protocol.unequal=subset draws a subset of the larger one"
        )
    generated = _fewer_clouds("generated", generated, size, protocol.seed, notes)
    reference = _fewer_clouds("reference", reference, size, protocol.seed, notes)
    if protocol.draw_points != "all":
        fewest = min(generated.smallest[1], reference.smallest[1])
        wanted = protocol.num_points or fewest
        if fewest < wanted:
            notes.append(f"{fewest} points a cloud, not {wanted}: the smallest cloud has no more")
        count = min(fewest, wanted)
        generated = _fewer_points("generated", generated, count, protocol, GENERATED_POINTS, notes)
        reference = _fewer_points("reference", reference, count, protocol, REFERENCE_POINTS, notes)
    if protocol.normalization == "reference":
        normalization = Normalization.fit(reference)
        generated, reference = (
            Clouds.join([normalization.apply(x) for x in clouds.points()]) for clouds in (generated, reference)
        )
    elif protocol.normalization != "none":
        generated, reference = (rescaled(clouds, protocol.normalization) for clouds in (generated, reference))
    return Prepared(generated, reference, tuple(notes))


def _fewer_clouds(name: str, clouds: Clouds, size: int, seed: int, notes: list[str]) -> Clouds:
    if len(clouds) == size:
        return clouds
    (generator,) = cloud_generators(seed, [0], CLOUDS_KEPT)
    kept = torch.randperm(len(clouds), generator=generator)[:size].sort().values
    notes.append(f"{name}: {size} of {len(clouds)} clouds, a random subset without replacement, seed {seed}")
    return clouds[kept]


def _fewer_points(name: str, clouds: Clouds, count: int, protocol: Protocol, stream: int, notes: list[str]) -> Clouds:
    most = clouds.x.shape[1]
    if most == count and clouds.lengths is None:
        return clouds
    how = "first" if protocol.draw_points == "first" else f"random, without replacement, seed {protocol.seed}"
    notes.append(f"{name}: {count} of up to {most} points a cloud ({how})")
    if protocol.draw_points == "first":
        return Clouds.join([x[:count] for x in clouds.points()])
    generators = cloud_generators(protocol.seed, range(len(clouds)), stream)
    drawn: list[Tensor] = []
    for x, generator in zip(clouds.points(), generators, strict=True):
        drawn.append(x[torch.randperm(len(x), generator=generator)[:count]])
    return Clouds.join(drawn)
