"""Random draws that belong to a cloud, so that a cloud does not depend on the batch that it is made in.

Every function takes `generator`: None (torch's default), one `torch.Generator` for the whole batch, or one
generator a cloud. With one a cloud, cloud b's numbers come from generator b alone and only for the rows that it owns.
`Rows` is one generator for a batch of which only some clouds are here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Rows:
    """The one generator of a batch, for some of its clouds: the numbers of all are drawn, and those of these kept.

    So the clouds of a batch get the same numbers whether one process has all of them or several have some each, at the
    price that each draws the whole batch's.

    Args:
        generator: of the batch.
        first: place in the batch of the first cloud that is here.
        num_clouds: that are here, one after the other.
        batch_size: clouds of the whole batch.

    Raises:
        ValueError: if they are not within the batch.
    """

    def __init__(self, generator: torch.Generator, first: int, num_clouds: int, batch_size: int) -> None:
        if not 0 <= first <= first + num_clouds <= batch_size:
            raise ValueError(f"{num_clouds} clouds from place {first} on are not in a batch of {batch_size}")
        self.generator, self.first, self.num_clouds, self.batch_size = generator, first, num_clouds, batch_size

    def __len__(self) -> int:
        """How many clouds are here."""
        return self.num_clouds

    def __getitem__(self, index: int) -> torch.Generator:
        """The generator, which is that of every cloud."""
        return self.generator


Generators = torch.Generator | Sequence[torch.Generator] | Rows | None


def cloud_generators(seed: int, indices: Sequence[int], stream: int = 0) -> list[torch.Generator]:
    """One generator a cloud, a function of (seed, index of the cloud, stream) alone.

    Args:
        seed: the run's seed, >= 0.
        indices: the clouds' indices, each >= 0.
        stream: separates uses of the same (seed, index), for instance sampling from evaluation.

    Returns:
        CPU generators, one an index; their numbers are the same on every machine and device.

    Raises:
        ValueError: if the seed, an index or the stream is negative.
    """
    if seed < 0 or stream < 0 or any(index < 0 for index in indices):
        raise ValueError(f"seed, stream and indices must be >= 0, got seed={seed}, stream={stream}, {list(indices)}")
    states = [np.random.SeedSequence([seed, index, stream]).generate_state(2, np.uint32) for index in indices]
    # torch takes 64 bits; SeedSequence mixes the three numbers into them.
    return [torch.Generator().manual_seed(int(low) | int(high) << 32) for low, high in states]


def standard_normal(
    shape: Sequence[int],
    generator: Generators = None,
    *,
    lengths: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw independent N(0, 1) numbers of shape (B, N, ...).

    Args:
        shape: (B, N, ...).
        generator: see the module's docstring.
        lengths: (B,) rows that each cloud owns; with one generator a cloud only these are drawn and the rest are 0.
        dtype: of the result; default torch's default.
        device: of the result; the numbers are drawn on the generator's device, so they are the same everywhere.
    """
    return _draw(torch.randn, shape, generator, lengths, dtype, device)


def uniform(
    shape: Sequence[int],
    generator: Generators = None,
    *,
    lengths: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw independent uniform numbers in [0, 1) of shape (B, ...); arguments as in `standard_normal`."""
    return _draw(torch.rand, shape, generator, lengths, dtype, device)


def random_subset(
    size: int,
    num_clouds: int,
    num_particles: int,
    generator: Generators = None,
    *,
    lengths: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw, in each cloud, `size` distinct rows uniformly at random.

    Returns:
        (B, size) int64. Where a cloud owns fewer than `size` rows, all of its own come first and padding follows.

    Raises:
        ValueError: if `size` exceeds `num_particles`.
    """
    if not 0 <= size <= num_particles:
        raise ValueError(f"a subset of {size} particles cannot be drawn from {num_particles}")
    # float64 keys: in float32 a cloud of a million particles would have hundreds of ties.
    keys = uniform((num_clouds, num_particles), generator, lengths=lengths, dtype=torch.float64, device=device)
    if lengths is not None:
        own = torch.arange(num_particles, device=keys.device) < lengths.to(keys.device)[:, None]
        keys = keys.masked_fill(~own, torch.inf)
    return keys.topk(size, dim=1, largest=False).indices  # in order, so padding, whose key is infinite, comes last


def check_lengths(lengths: Tensor, num_clouds: int, num_particles: int) -> None:
    """Refuse lengths that do not fit; their values are checked on the CPU only, elsewhere that would stall the stream.

    Raises:
        ValueError: if lengths are not (B,) whole numbers from 0 to N.
    """
    if lengths.shape != (num_clouds,) or lengths.is_floating_point():
        raise ValueError(f"lengths must be ({num_clouds},) whole numbers, got {lengths.dtype} {tuple(lengths.shape)}")
    if lengths.device.type == "cpu" and bool(((lengths < 0) | (lengths > num_particles)).any()):
        raise ValueError(f"lengths must be from 0 to {num_particles}, got {lengths.tolist()}")


def _draw(draw, shape, generator, lengths, dtype, device) -> Tensor:  # type: ignore[no-untyped-def]
    shape = tuple(shape)
    dtype = dtype or torch.get_default_dtype()
    if generator is None:
        return draw(shape, dtype=dtype, device=device)
    if isinstance(generator, torch.Generator):
        return draw(shape, generator=generator, dtype=dtype, device=generator.device).to(device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"{len(generator)} generators were given for {shape[0]} clouds; give one a cloud, or one for all"
        )
    if isinstance(generator, Rows):
        one, first = generator.generator, generator.first
        drawn = draw((generator.batch_size, *shape[1:]), generator=one, dtype=dtype, device=one.device)
        return drawn[first : first + len(generator)].to(device)
    if lengths is None or len(shape) < 2:
        rows = [draw(shape[1:], generator=g, dtype=dtype, device=g.device) for g in generator]
        return torch.stack(rows).to(device) if rows else torch.empty(shape, dtype=dtype, device=device)
    # Filled where the generators are, and moved once: a copy a cloud would stall a GPU as often.
    out = torch.zeros(shape, dtype=dtype, device=generator[0].device if len(generator) else device)
    for b, (g, length) in enumerate(zip(generator, lengths.tolist(), strict=True)):
        out[b, :length] = draw((length, *shape[2:]), generator=g, dtype=dtype, device=g.device)
    return out.to(device)
