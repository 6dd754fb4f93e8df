"""How the Triton kernels are launched: whether they can run, in which configuration, and on what layout.

Triton is imported when first asked for. Where it interprets its kernels (TRITON_INTERPRET=1) they run on the CPU,
slowly: that is for tests.
"""

import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mfcdm.interaction.boxes import TILE_SIZE
from mfcdm.interaction.reference import unit_of_length

MAX_DIM = 3


@dataclass(frozen=True)
class Configuration:
    """How a kernel is compiled.

    Attributes:
        num_warps: warps of a program.
        num_stages: depth of the pipeline over the near tiles.
        precision: of matrix products, "ieee" or "tf32x3".
    """

    num_warps: int
    num_stages: int
    precision: str = "ieee"


_LAY_OUT, _AVERAGE, _SWEEP = Configuration(4, 1), Configuration(4, 3), Configuration(4, 2)

# By compute capability, channels of a slab and kernel. benchmarks/compile_triton.py prints what each needs: next to no
# register is spilled. An architecture that is not listed takes the one below it.
CONFIGURATIONS = {
    architecture: {
        block: {"lay_out_tile": _LAY_OUT, "average_tile": _AVERAGE, "sweep_tile": _SWEEP} for block in (16, 32, 64)
    }
    for architecture in (80, 90, 100)
}


def reason_unavailable(x: Tensor | None = None, dtype: torch.dtype = torch.float32) -> str | None:
    """Return why the backend cannot run, here or on these queries, as a phrase; None where it can.

    Args:
        x: queries (B, N, D), or None to ask about the machine only.
        dtype: what the convolution has to be computed in.
    """
    if dtype != torch.float32:
        return f"it computes in float32, but the arguments need {dtype}"
    if x is not None and x.shape[-1] > MAX_DIM:
        return f"it takes up to {MAX_DIM} dimensions, but x has {x.shape[-1]}"
    return _reason_against(None if x is None else x.device)


def _reason_against(device: torch.device | None) -> str | None:
    """Look at the machine; torch.compile does so once, while it traces."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        interprets = kernels().interprets()
    except ImportError as error:
        return f"Triton cannot be imported, {error}"
    if interprets:
        on_cpu = device is None or device.type == "cpu"
        return None if on_cpu else f"Triton interprets, on the CPU, but x is on {device}"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if device is not None and device.type != "cuda":
        return f"it runs on CUDA, but x is on {device}"
    oldest, own = min(CONFIGURATIONS), capability(device)
    return None if own >= oldest else f"it needs compute capability {oldest / 10}, but the device has {own / 10}"


# This is all that torch.compiler.assume_constant_result does; calling it would load the compiler with the library.
_reason_against._dynamo_marked_constant = True  # type: ignore[attr-defined]


def kernels() -> Any:
    """Import the kernels."""
    from mfcdm.interaction import triton_kernels

    return triton_kernels


def capability(device: torch.device | None) -> int:
    """Return 90 for compute capability 9.0; the oldest that is known where there is no device."""
    if device is not None and device.type != "cuda":
        return min(CONFIGURATIONS)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def block_of(num_channels: int) -> int:
    """Return the channels of a slab: the fewest that hold all, or the most that there are."""
    blocks = sorted(CONFIGURATIONS[min(CONFIGURATIONS)])
    return next((block for block in blocks if block >= num_channels), blocks[-1])


def configuration(name: str, capability: int, block: int) -> Configuration:
    """Return how a kernel is compiled for an architecture, 90 for compute capability 9.0, and channels of a slab."""
    nearest = max(known for known in CONFIGURATIONS if known <= capability)
    return CONFIGURATIONS[nearest][block][name]


@dataclass(frozen=True)
class Side:
    """Takes rows of one side (queries or sources) to the slots of its tiles; `near` is its near list to the other."""

    order: Tensor  # (B, N)
    lengths: Tensor  # (B,)
    near: Sequence[Tensor]  # offsets (B tiles + 1,) and tiles (P,); empty where nobody sweeps over this side
    radius: float

    @property
    def tiles(self) -> int:
        """Tiles of one cloud."""
        return max(1, -(-self.order.shape[1] // TILE_SIZE))

    def points(self, x: Tensor) -> Tensor:
        """Lay out positions (B, N, D) in units of about the radius  # (4, slots)."""
        to = x.new_empty(4, x.shape[0] * self.tiles * TILE_SIZE, dtype=torch.float32)
        self._lay_out(to, None, x[:, None], None, None, unit=unit_of_length(self.radius), points=True)
        return to

    def features(
        self, values: Tensor, block: int, *, weight: Tensor | None = None, average: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Lay out values (B, H, N, C), times weight (B, H, N), in float32.

        Returns:
            The features (slabs, slots, block), and their products with the average (H, slots) if it is given.
        """
        num_clouds, num_heads, _, num_channels = values.shape
        slots = num_clouds * self.tiles * TILE_SIZE
        to = values.new_empty(num_heads * -(-num_channels // block), slots, block, dtype=torch.float32)
        pairing = None if average is None else values.new_empty(num_heads, slots, dtype=torch.float32)
        self._lay_out(to, pairing, values, weight, average, unit=1.0, points=False)
        return to, pairing

    def _lay_out(
        self,
        to: Tensor,
        pairing: Tensor | None,
        values: Tensor,
        weight: Tensor | None,
        average: Tensor | None,
        *,
        unit: float,
        points: bool,
    ) -> None:
        num_clouds, num_heads, num_rows, num_channels = values.shape
        block = to.shape[0] if points else to.shape[2]
        chosen = configuration("lay_out_tile", capability(values.device), block_of(num_channels))
        kernels().lay_out_tile[(num_clouds * self.tiles, num_heads)](
            *(to, pairing, values, weight, average, self.order, self.lengths, unit),
            *(num_rows, num_channels, -(-num_channels // block), self.tiles),
            *values.stride(),
            POINTS=points,
            TILE=TILE_SIZE,
            BLOCK=block,
            num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
        )


def sides(geometry: Sequence[Tensor], radius: float) -> tuple[Side, Side]:
    """Return the queries and the sources of a flattened geometry."""
    query_order, source_order, query_lengths, source_lengths = geometry[:4]
    queries = Side(query_order, query_lengths, geometry[4:6], radius)
    return queries, Side(source_order, source_lengths, geometry[6:8], radius)


def average(
    out: Tensor,
    inverse_z: Tensor,
    v_j: Tensor,
    queries: tuple[Side, Tensor],
    sources: tuple[Side, Tensor],
    kappa: Tensor,
    *,
    kernel: bool,
) -> None:
    """Write out (B, H, N, C) and 1 / Z (B, H, N) from the laid out values and positions of both sides."""
    _launch("average_tile", (out, inverse_z, v_j), queries, sources, kappa, v_j, out.shape[3], KERNEL=kernel)


def sweep(
    written: tuple[Tensor | None, Tensor | None, Tensor | None],
    features: tuple[Tensor, Tensor],
    pairings: tuple[Tensor | None, Tensor | None],
    rows: tuple[Side, Tensor],
    columns: tuple[Side, Tensor],
    kappa: Tensor,
    num_channels: int,
    *,
    kernel: bool,
    both: bool,
) -> None:
    """Write the gradients of `sweep_tile` that are wanted; features and pairings are those of rows and columns."""
    first = (*written, *features, *pairings)
    _launch("sweep_tile", first, rows, columns, kappa, features[0], num_channels, KERNEL=kernel, BOTH=both)


def _launch(
    name: str,
    first: tuple[Tensor | None, ...],
    rows: tuple[Side, Tensor],
    columns: tuple[Side, Tensor],
    kappa: Tensor,
    features: Tensor,
    num_channels: int,
    **flags: bool,
) -> None:
    (row, x_i), (column, y_j) = rows, columns
    num_slabs, _, block = features.shape
    chosen = configuration(name, capability(kappa.device), block)
    getattr(kernels(), name)[(x_i.shape[1] // TILE_SIZE, num_slabs)](
        *(*first, x_i, y_j, kappa, *row.near, row.order, row.lengths, column.lengths),
        1 / (row.radius * unit_of_length(row.radius)) ** 2,
        *(row.order.shape[1], num_channels, num_slabs // len(kappa), row.tiles, column.tiles),
        **flags,
        TILE=TILE_SIZE,
        BLOCK=block,
        PRECISION=chosen.precision,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )


def device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Launch on the device of a tensor, whichever is current."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
