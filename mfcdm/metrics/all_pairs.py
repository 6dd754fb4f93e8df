"""Distances between all pairs of two sets of clouds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Literal, TypeVar

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mfcdm.metrics.arguments import Array, as_array, check_alike, result_dtype, separate
from mfcdm.metrics.chamfer import MAX_DIFFERENCES, Backend, check_backend, squared_distances
from mfcdm.metrics.pytorch3d_interop import pytorch3d_chamfer
from mfcdm.metrics.sinkhorn import sinkhorn_cost
from mfcdm.metrics.transport import check_size, transport_cost

Metric = Literal["cd", "emd", "sinkhorn_emd"]
METRICS: tuple[Metric, ...] = ("cd", "emd", "sinkhorn_emd")

Progress = Callable[[int, int], None]

# Queries put to one tree at a time; their distances and indices are what a worker holds.
MAX_QUERIES = 2**17

Item = TypeVar("Item")
Value = TypeVar("Value")
Cloud = TypeVar("Cloud", Array, Tensor)


@torch.no_grad()
def pairwise(
    a: Tensor,
    b: Tensor,
    metric: Metric = "cd",
    *,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    progress: Progress | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Distances between every cloud of one set and every cloud of another, d_ab = metric(a_a, b_b).

    "cd" is `chamfer_distance`, "emd" is `earth_movers_distance`, "sinkhorn_emd" is the lower bound of it that
    `sinkhorn_emd` gives. torch.get_num_threads() threads share the work, and
    beside the clouds themselves each holds a bounded block of distances. With b = a (the same tensor) each pair is
    computed once. On an accelerator "cd" runs there; the others always run on the CPU. No gradient.

    Args:
        a: (A, N, D).
        b: (B, M, D).
        metric: "cd", "emd" or "sinkhorn_emd".
        lengths_a: (A,) rows that each cloud of a owns; padding may be NaN.
        lengths_b: (B,) rows that each cloud of b owns; where b is a, the same as lengths_a.
        progress: called with (done, total), from this thread, as the work goes on.
        backend: of "cd", as in `chamfer_distance`: "auto", or "pytorch3d" where it is named.

    Returns:
        (A, B); float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the metric or the backend is unknown or they do not fit, the shapes do not fit, a cloud is empty
            or too large for an exact earth mover's distance, or a coordinate is not finite.
        PyTorch3DMissing: if it was named and is not installed.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(map(repr, METRICS))}, but is {metric!r}")
    check_backend(backend)
    if backend != "auto" and metric != "cd":
        raise ValueError(f"backend={backend!r} computes 'cd' alone, but the metric is {metric!r}")
    left, right = separate("a", a, lengths_a), separate("b", b, lengths_b)
    check_alike(a, b)
    symmetric = a is b and _equal(lengths_a, lengths_b)
    report = progress if progress is not None else silence
    if metric != "cd":
        cost = transport_cost if metric == "emd" else sinkhorn_cost
        distances = torch.from_numpy(_transport_costs(left, right, symmetric, cost, report))
    elif backend == "pytorch3d":
        distances = _chamfer_by_pytorch3d(left, right, symmetric, report)
    elif a.device.type == "cpu":
        distances = torch.from_numpy(_chamfer_by_trees(left, right, symmetric, report))
    else:
        distances = _chamfer_by_blocks(left, right, symmetric, report)
    return distances.to(device=a.device, dtype=result_dtype(a, b))


def _equal(lengths_a: Tensor | None, lengths_b: Tensor | None) -> bool:
    if lengths_a is None or lengths_b is None:
        return lengths_a is lengths_b
    return torch.equal(lengths_a, lengths_b)


def silence(done: int, total: int) -> None:
    """Report nothing."""


def in_threads(
    work: Callable[[Item], Value], items: Sequence[Item], progress: Progress
) -> Iterator[tuple[Item, Value]]:
    """Each item with its result, in order. scipy's trees and assignments release Python's lock while they compute."""
    executor = ThreadPoolExecutor(max_workers=torch.get_num_threads())
    try:
        for done, (item, value) in enumerate(zip(items, executor.map(work, items), strict=True), start=1):
            yield item, value
            progress(done, len(items))
    finally:
        executor.shutdown(cancel_futures=True)  # an error, or Ctrl-C, ends it now and not after all pairs


def _chamfer_by_trees(a: Sequence[Tensor], b: Sequence[Tensor], symmetric: bool, progress: Progress) -> Array:
    """Chamfer distances from k-d trees, (A, B): half of them are the other half's transpose where b is a."""
    trees_a = [cKDTree(as_array(cloud)) for cloud in a]
    if symmetric:
        half = _to_nearest(trees_a, trees_a, progress)
        return half + half.T
    trees_b = [cKDTree(as_array(cloud)) for cloud in b]
    total = len(a) + len(b)
    b_to_a = _to_nearest(trees_a, trees_b, lambda done, _: progress(done, total))  # (A, B)
    a_to_b = _to_nearest(trees_b, trees_a, lambda done, _: progress(len(a) + done, total))  # (B, A)
    return a_to_b.T + b_to_a


def _to_nearest(targets: Sequence[cKDTree], sources: Sequence[cKDTree], progress: Progress) -> Array:
    """Mean over a source cloud's points of the squared distance to the nearest point of a target cloud, (T, S)."""
    if not targets or not sources:
        return np.zeros((len(targets), len(sources)))
    # In the order of its own tree a cloud's neighbouring points follow each other and find the same nodes in cache.
    clouds = [np.asarray(tree.data)[tree.indices] for tree in sources]
    blocks = [(np.concatenate(block), [len(cloud) for cloud in block]) for block in _blocks(clouds)]

    def row(tree: cKDTree) -> Array:
        means = []
        for points, sizes in blocks:
            distance, _ = tree.query(points)
            starts = list(accumulate(sizes[:-1], initial=0))
            means.append(np.add.reduceat(distance**2, starts) / sizes)
        return np.concatenate(means)

    return np.stack([values for _, values in in_threads(row, targets, progress)])


def _blocks(clouds: Iterable[Cloud]) -> Iterator[list[Cloud]]:
    """Consecutive clouds together, as many as have at most MAX_QUERIES points, and at least one."""
    block: list[Cloud] = []
    size = 0
    for cloud in clouds:
        if block and size + len(cloud) > MAX_QUERIES:
            yield block
            block, size = [], 0
        block.append(cloud)
        size += len(cloud)
    if block:
        yield block


def _chamfer_by_blocks(a: Sequence[Tensor], b: Sequence[Tensor], symmetric: bool, progress: Progress) -> Tensor:
    """Chamfer distances from blocks of all differences, on the device of the clouds, (A, B)."""
    if not a or not b:
        return torch.zeros(len(a), len(b))
    dtype = result_dtype(a[0], b[0])
    b = [y.to(dtype) for y in b]
    distances = torch.zeros(len(a), len(b), dtype=dtype, device=a[0].device)
    widest = max(len(y) for y in b)
    for row, x in enumerate(a):
        rows = min(len(x), max(1, MAX_DIFFERENCES // widest))  # points of x at a time, against
        together = max(1, MAX_DIFFERENCES // (rows * widest))  # this many clouds of b
        for start in range(row if symmetric else 0, len(b), together):
            block = slice(start, start + together)
            distances[row, block] = _one_to_many(x.to(dtype), b[block], rows)
        progress(row + 1, len(a))
    return distances.triu() + distances.triu(1).T if symmetric else distances


def _one_to_many(x: Tensor, clouds: Sequence[Tensor], rows: int) -> Tensor:
    """Chamfer distances of one cloud to K others, (K,), from `rows` points of it at a time."""
    sizes = torch.tensor([len(cloud) for cloud in clouds], device=x.device)
    y = torch.nn.utils.rnn.pad_sequence(list(clouds), batch_first=True)  # (K, M, D)
    padding = torch.arange(y.shape[1], device=x.device) >= sizes[:, None]  # (K, M)
    to_y = x.new_zeros(len(clouds))
    to_x = torch.full_like(y[..., 0], torch.inf)  # (K, M)
    for part in x.split(rows):
        d_ij = squared_distances(part, y)  # (K, rows, M)
        to_x = torch.minimum(to_x, d_ij.amin(dim=1))
        to_y += d_ij.masked_fill(padding[:, None], torch.inf).amin(dim=2).sum(dim=1)
    return to_y / len(x) + to_x.masked_fill(padding, 0).sum(dim=1) / sizes


def _chamfer_by_pytorch3d(a: Sequence[Tensor], b: Sequence[Tensor], symmetric: bool, progress: Progress) -> Tensor:
    """Chamfer distances from PyTorch3D, (A, B): one cloud against as many at a time as have MAX_QUERIES points."""
    distances = torch.zeros(len(a), len(b), dtype=torch.float64)
    for row, x in enumerate(a):
        column = row if symmetric else 0
        for block in _blocks(b[column:]):
            y = torch.nn.utils.rnn.pad_sequence(block, batch_first=True)
            lengths = torch.tensor([len(cloud) for cloud in block])
            found = pytorch3d_chamfer(x.expand(len(block), -1, -1), y, lengths_y=lengths)
            distances[row, column : column + len(block)] = found
            column += len(block)
        progress(row + 1, len(a))
    return distances.triu() + distances.triu(1).T if symmetric else distances


def _transport_costs(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    symmetric: bool,
    cost: Callable[[Array, Array], float],
    progress: Progress,
) -> Array:
    """Earth mover's distances, (A, B): one pair is one task."""
    left = [as_array(cloud) for cloud in a]
    right = left if symmetric else [as_array(cloud) for cloud in b]
    for size_a in {len(cloud) for cloud in left}:  # before hours of work, not after
        for size_b in {len(cloud) for cloud in right}:
            check_size(size_a, size_b, exact=cost is transport_cost)
    distances = np.zeros((len(left), len(right)))
    pairs = [(i, j) for i in range(len(left)) for j in range(i + 1 if symmetric else 0, len(right))]

    def of_pair(pair: tuple[int, int]) -> float:
        return cost(left[pair[0]], right[pair[1]])

    for (i, j), value in in_threads(of_pair, pairs, progress):
        distances[i, j] = value
    return distances + distances.T if symmetric else distances
