"""What the ball convolution is compared with, for interaction.py: peers on the same problem, each as a function.

A method is set up once for a problem (a sort, a tree, a block mask) and is then called with (x, v, bandwidth).
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mfcdm.interaction import BallGeometry, available_backends, ball_convolution
from mfcdm.interaction.reference import ball_convolution_reference

GIB = 2**30
OURS = {"native": ("cpu",), "triton": ("cuda",), "tiled": ("cpu", "cuda")}


class NotRun(Exception):
    """Why a cell stays empty."""


@dataclass(frozen=True)
class Problem:
    """One size: the arguments of `ball_convolution`."""

    x: Tensor
    v: Tensor
    bandwidth: Tensor
    radius: float
    memory: float  # bytes, the most that a pass may take

    @property
    def pairs(self) -> float:
        """Pairs closer than the radius: a cap of the sphere is the share R^2 / 4 of it."""
        return self.x.shape[0] * self.x.shape[1] ** 2 * min(1.0, self.radius**2 / 4)


def check_memory(num_bytes: float, problem: "Problem") -> None:
    """Refuse what would take too much."""
    if num_bytes > problem.memory:
        raise NotRun(f"about {num_bytes / GIB:.0f} GiB")


Run = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(backend: str, problem: Problem) -> Run:
    """Sort once, as a network does."""
    geometry = BallGeometry.build(problem.x, problem.radius)
    return partial(ball_convolution, radius=problem.radius, geometry=geometry, backend=backend)


def dense_torch(problem: Problem) -> Run:
    """The definition."""
    num_clouds, num_points = problem.x.shape[:2]
    check_memory(4 * num_clouds * num_points**2 * (8 + 6 * len(problem.bandwidth)), problem)
    return partial(ball_convolution_reference, radius=problem.radius)


def attention(problem: Problem) -> Run:
    """The Gaussian that is never cut off, normalised: exponents x.y / b^2 - |y|^2 / (2 b^2) as products of features."""

    def run(x: Tensor, v: Tensor, bandwidth: Tensor) -> Tensor:
        scaled = x[:, None] / bandwidth[:, None, None]  # (B, H, N, 3)
        rest = scaled.new_zeros(*scaled.shape[:3], v.shape[3] - 4)  # fused attention wants as many features as values
        query = torch.cat([scaled, torch.ones_like(rest[..., :1]), rest], -1)
        key = torch.cat([scaled, -0.5 * scaled.square().sum(-1, keepdim=True), rest], -1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, v, scale=1.0)

    return run


def flex_attention(problem: Problem) -> Run:
    """Attention with the whole formula as a modified score, over near blocks of 128 sorted points."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    geometry = BallGeometry.build(problem.x, problem.radius)
    num_clouds, num_points = problem.x.shape[:2]
    blocks, order = num_points // 128, geometry.query_order
    tile = torch.arange(len(geometry.near_offsets) - 1, device=problem.x.device)
    row = tile.repeat_interleave(geometry.near_offsets.diff(), output_size=len(geometry.near_tiles)) // 4
    check_memory(16 * num_clouds * blocks**2, problem)
    near = torch.zeros(num_clouds, 1, blocks, blocks, dtype=torch.bool, device=problem.x.device)
    near[row // blocks, 0, row % blocks, geometry.near_tiles // 4 % blocks] = True
    indices = near.to(torch.int8).argsort(dim=-1, descending=True, stable=True).int()
    z = problem.x.gather(1, order[..., None].expand_as(problem.x))

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return sum((z[b, i, d] - z[b, j, d]) ** 2 for d in range(3)) < problem.radius**2  # type: ignore[return-value]

    block_mask = BlockMask.from_kv_blocks(near.sum(-1).int(), indices, BLOCK_SIZE=128, mask_mod=mask)

    def run(x: Tensor, v: Tensor, bandwidth: Tensor) -> Tensor:
        points = x.gather(1, order[..., None].expand_as(x))
        index, sharpness = order[:, None, :, None].expand_as(v), 0.5 / bandwidth**2

        def score(_: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            d2: Tensor = sum((points[b, i, d] - points[b, j, d]) ** 2 for d in range(3))  # type: ignore[assignment]
            return -sharpness[h] * d2 + 2 * torch.log((1 - d2 / problem.radius**2).clamp(min=1e-12))

        zero = torch.zeros_like(v)
        out = flex_attention(zero, zero, v.gather(2, index), score_mod=score, block_mask=block_mask)
        return torch.empty_like(v).scatter(2, index, out)

    return torch.compile(run)


def keops(problem: Problem) -> Run:
    """All pairs with the cut-off, nothing stored."""
    from pykeops.torch import LazyTensor

    def run(x: Tensor, v: Tensor, bandwidth: Tensor) -> Tensor:
        kappa = 0.5 * (problem.radius / bandwidth) ** 2
        x_i, x_j = LazyTensor(x[:, None, :, None]), LazyTensor(x[:, None, None])  # (B, 1, N, 1, 3), (B, 1, 1, N, 3)
        u = ((x_i - x_j) ** 2).sum(-1) / problem.radius**2
        w = (-LazyTensor(kappa.view(1, -1, 1, 1, 1)) * u).exp() * (1 - u).relu() ** 2
        return (w * LazyTensor(v[:, :, None].contiguous())).sum(3) / x.shape[1]

    return run


def neighbour_list(problem: Problem) -> Run:
    """A list of near pairs from a k-d tree, and index_add over it."""
    check_memory(6 * 4 * problem.pairs * problem.v.shape[1] * problem.v.shape[3], problem)
    num_points = problem.x.shape[1]
    found = []
    for b, cloud in enumerate(problem.x.cpu().double().numpy()):
        pairs = cKDTree(cloud).query_pairs(problem.radius, output_type="ndarray")
        alone = np.arange(num_points)[:, None].repeat(2, 1)
        found.append(np.concatenate([pairs, pairs[:, ::-1], alone]) + b * num_points)
    i, j = torch.from_numpy(np.concatenate(found)).to(problem.x.device).T.contiguous()

    def run(x: Tensor, v: Tensor, bandwidth: Tensor) -> Tensor:
        points, values = x.flatten(0, 1), v.transpose(1, 2).flatten(0, 1)  # (B N, 3), (B N, H, C)
        u = ((points[i] - points[j]).square().sum(-1, keepdim=True) / problem.radius**2).clamp(max=1)  # (E, 1)
        w = torch.exp(-0.5 * (problem.radius / bandwidth) ** 2 * u) * (1 - u).square()  # (E, H)
        sums = torch.zeros_like(values).index_add(0, i, w[..., None] * values[j])
        return sums.unflatten(0, x.shape[:2]).transpose(1, 2) / num_points

    return run


METHODS: dict[str, Callable[[Problem], Run]] = {
    **{name: partial(ours, name) for name in OURS},
    "dense torch": dense_torch,
    "scaled_dot_product_attention": attention,
    "flex_attention": flex_attention,
    "keops": keops,
    "neighbour list": neighbour_list,
}


def missing(method: str, device: str) -> str | None:
    """Why a method cannot run here at all."""
    if method in OURS and (device not in OURS[method] or method not in available_backends()):
        return f"does not run on {device} here"
    if method == "flex_attention" and device != "cuda":
        return "torch has no backward pass of it on a CPU"
    if method == "keops" and importlib.util.find_spec("pykeops") is None:
        return "pykeops is not installed"
    return None
