"""Order, bounding boxes, and the search for near pairs of boxes, for `BallGeometry`."""

import math

import torch
from torch import Tensor

from mfcdm.interaction.reference import unit_of_length

TILE_SIZE = 32
BRANCHING = 8  # boxes of one level in a box of the next
# Pairs of boxes examined at once, which bounds the memory of the search: on a CPU they should stay in its caches, an
# accelerator wants few launches.
CANDIDATES = {"cpu": 2**18}
CANDIDATES_ELSEWHERE = 2**22

Boxes = tuple[Tensor, Tensor, Tensor]  # low (B, n, D), high (B, n, D), occupied (B, n)


def bounding_cube(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower corner (B, 1, D) and the longest side (B, 1, 1) of each cloud's bounding box."""
    if points.shape[1] == 0:
        return points.new_zeros(points.shape[0], 1, points.shape[2]), points.new_ones(points.shape[0], 1, 1)
    inside = valid[..., None] & points.isfinite()  # a diverged point must not spoil the order of the others
    low = torch.where(inside, points, torch.inf).amin(1, keepdim=True)
    high = torch.where(inside, points, -torch.inf).amax(1, keepdim=True)
    extent = torch.where(low <= high, high - low, 0).amax(2, keepdim=True)
    return torch.where(low <= high, low, 0), torch.where(extent > 0, extent, 1)


def morton_order(points: Tensor, valid: Tensor, low: Tensor, extent: Tensor) -> Tensor:
    """Sort each cloud along a Morton curve, its padding last  # (B, N) int64.

    Cells are cubes, so that tiles are as round as the cloud allows. Coordinate d of a cell contributes its bits to the
    positions d, d + D, d + 2 D, ... of the code.
    """
    dim = min(points.shape[-1], 6)  # a curve through more coordinates separates nothing better
    bits = min(16, 62 // dim)
    cells = torch.arange(2**bits, device=points.device)
    spread = torch.zeros_like(cells)
    for bit in range(bits):
        spread |= ((cells >> bit) & 1) << (bit * dim)
    code = torch.zeros(points.shape[:2], dtype=torch.int64, device=points.device)
    scaled = torch.where(valid[..., None], (points - low) / extent, 0)[..., :dim]
    cell = (scaled.nan_to_num(0.0, 1.0, 0.0) * 2**bits).clamp(0, 2**bits - 1).long()  # (B, N, dim)
    for d in range(dim):
        code |= spread[cell[..., d]] << d
    code = torch.where(valid, code, torch.iinfo(torch.int64).max)
    return torch.sort(code, dim=1, stable=True).indices


def tile_boxes(points: Tensor, valid: Tensor, order: Tensor) -> Boxes:
    """Return the bounding boxes of the tiles, over valid points only."""
    points = points.gather(1, order[..., None].expand_as(points))
    occupied = valid.gather(1, order)
    low = torch.where(occupied[..., None], points, torch.inf)
    high = torch.where(occupied[..., None], points, -torch.inf)
    return _merge((low, high, occupied), TILE_SIZE)


def _merge(boxes: Boxes, size: int) -> Boxes:
    """Merge runs of `size` boxes of a cloud into one box; the last run may be shorter."""
    low, high, occupied = boxes
    missing = max(size, -(-low.shape[1] // size) * size) - low.shape[1]
    low = torch.nn.functional.pad(low, (0, 0, 0, missing), value=torch.inf)
    high = torch.nn.functional.pad(high, (0, 0, 0, missing), value=-torch.inf)
    occupied = torch.nn.functional.pad(occupied, (0, missing), value=False)
    return (
        low.unflatten(1, (-1, size)).amin(2),
        high.unflatten(1, (-1, size)).amax(2),
        occupied.unflatten(1, (-1, size)).any(2),
    )


def near_list(query_boxes: Boxes, source_boxes: Boxes, radius: float, room: int | None = None) -> tuple[Tensor, Tensor]:
    """Find all near pairs of tiles by descending two hierarchies of boxes  # (B query_tiles + 1,), (P,).

    How many pairs are near is known on the device only. Without `room` the host asks at every step of the descent,
    which is free on a CPU. With it, every step has places for `room` near boxes a box on average, filled or not, and
    the host asks once, at the end; should the places not have sufficed, it searches again without `room`.

    Args:
        query_boxes: boxes of the tiles of queries.
        source_boxes: boxes of the tiles of sources.
        radius: truncation radius, in the units of the boxes.
        room: near boxes a box on average, or None.
    """
    pairs, lost = _descend(query_boxes, source_boxes, radius, room)
    if room is not None:
        found = int(torch.where(lost, -1, (pairs[0] >= 0).sum()))  # the only synchronisation
        if found < 0:
            return near_list(query_boxes, source_boxes, radius)
        pairs = pairs[:, :found]
    cloud, query, source = pairs
    num_query_tiles, num_source_tiles = query_boxes[0].shape[1], source_boxes[0].shape[1]
    num_clouds = query_boxes[0].shape[0]
    query, source = cloud * num_query_tiles + query, cloud * num_source_tiles + source
    return compressed_rows(query, source, num_clouds * num_query_tiles, num_clouds * num_source_tiles)


def _descend(query_boxes: Boxes, source_boxes: Boxes, radius: float, room: int | None) -> tuple[Tensor, Tensor]:
    """Return the near pairs (cloud, query tile, source tile), and whether some were lost for want of room.

    Returns:
        The pairs (3, P), with -1 in the places that were left over, at the end; and a bool ().
    """
    hierarchy = [(query_boxes, source_boxes)]
    while max(level[0].shape[1] for level in hierarchy[-1]) > BRANCHING:
        queries, sources = hierarchy[-1]
        hierarchy.append((_merge(queries, BRANCHING), _merge(sources, BRANCHING)))

    queries, sources = hierarchy.pop()
    shape = (queries[0].shape[0], queries[0].shape[1], sources[0].shape[1])
    every = [torch.arange(size, device=queries[0].device) for size in shape]
    pairs = torch.stack(torch.meshgrid(*every, indexing="ij")).flatten(1)  # (3, P)
    chosen, lost = _true_places(_is_near(pairs, queries, sources, radius), None if room is None else pairs.shape[1])
    pairs = torch.where(chosen < 0, -1, pairs[:, chosen])
    while hierarchy:
        # First the queries' boxes are opened, then the sources': an eighth of the candidates of opening both at once.
        (queries, sources), parents = hierarchy.pop(), sources
        for side, others in ((1, parents), (2, sources)):
            boxes = math.prod(queries[0].shape[:2])
            places = None if room is None else boxes * min(room, others[0].shape[1])
            pairs, missed = _open(pairs, side, queries, others, radius, places)
            lost = lost | missed
    return pairs, lost


def _open(
    pairs: Tensor, side: int, queries: Boxes, sources: Boxes, radius: float, places: int | None
) -> tuple[Tensor, Tensor]:
    """Replace the box on one side (1 query, 2 source) of each pair by the boxes in it that are near  # (3, P), ()."""
    child = torch.arange(BRANCHING, device=pairs.device)
    last = (queries, sources)[side - 1][0].shape[1] - 1
    candidates = CANDIDATES.get(pairs.device.type, CANDIDATES_ELSEWHERE)
    kept = []
    for part in pairs.split(candidates // BRANCHING, dim=1):
        opened = part.repeat_interleave(BRANCHING, dim=1)  # (3, 8 P)
        boxes = (part[side, :, None] * BRANCHING + child).flatten()
        opened[side] = boxes.clamp(0, last)
        kept.append(_is_near(opened, queries, sources, radius) & (opened[side] == boxes))
    chosen, lost = _true_places(torch.cat(kept), places)
    pairs = pairs[:, chosen // BRANCHING]
    pairs[side] = pairs[side] * BRANCHING + chosen % BRANCHING
    return torch.where(chosen < 0, -1, pairs), lost


def _true_places(kept: Tensor, size: int | None) -> tuple[Tensor, Tensor]:
    """Return where a mask (P,) is true, and whether that is at more than `size` places.

    Without a size there are as many indices as true places; with one there are `size` indices, -1 where there is none
    left, and the host learns nothing.
    """
    if size is None:
        return kept.nonzero()[:, 0], kept.new_zeros(())
    index = torch.searchsorted(kept.cumsum(0), torch.arange(1, size + 1, device=kept.device))
    return torch.where(index < len(kept), index, -1), kept.sum() > size


def _is_near(pairs: Tensor, queries: Boxes, sources: Boxes, radius: float) -> Tensor:
    """Return whether the boxes of each pair (cloud, query box, source box) are closer than the radius  # (P,) bool."""
    cloud, query, source = pairs
    query_low, query_high, query_occupied = (part[cloud, query] for part in queries)
    source_low, source_high, source_occupied = (part[cloud, source] for part in sources)
    unit = unit_of_length(radius)
    gap = torch.maximum(source_low - query_high, query_low - source_high).clamp(min=0) * unit  # (P, D)
    # Rounding is monotone, so the gap of two boxes is rounded like the smallest distance in them; the slack covers the
    # remaining D + 4 roundings. The test is negated to keep boxes that contain NaN: a diverged point must stay visible.
    slack = 1 + (gap.shape[-1] + 4) * torch.finfo(gap.dtype).eps
    far = gap.square().sum(-1) >= (radius * unit) ** 2 * slack
    return ~far & query_occupied & source_occupied


def compressed_rows(row: Tensor, column: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Turn pairs (row, column) into sorted compressed rows: offsets (num_rows + 1,) and columns (P,)."""
    key = torch.sort(row * num_columns + column).values
    row, column = key // num_columns, key % num_columns
    offsets = torch.searchsorted(row, torch.arange(num_rows + 1, device=row.device))
    return offsets, column
