"""Random problems, and the rounding error that float arithmetic owes on them, for the tests of the interaction."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mfcdm.interaction import BallGeometry
from mfcdm.interaction.reference import ball_convolution_reference


@dataclass(frozen=True)
class Problem:
    x: Tensor
    v: Tensor
    bandwidth: Tensor
    radius: float
    y: Tensor | None = None
    lengths: Tensor | None = None
    source_lengths: Tensor | None = None

    @property
    def keywords(self) -> dict:
        keys = ("radius", "y", "lengths", "source_lengths")
        return {key: getattr(self, key) for key in keys}

    @property
    def sources(self) -> tuple[Tensor, Tensor | None]:
        return (self.x, self.lengths) if self.y is None else (self.y, self.source_lengths)

    def to(self, dtype: torch.dtype) -> "Problem":
        y = None if self.y is None else self.y.to(dtype)
        return replace(self, x=self.x.to(dtype), v=self.v.to(dtype), bandwidth=self.bandwidth.to(dtype), y=y)

    def with_padding(self, value: float) -> "Problem":
        """Overwrite all rows beyond the lengths."""
        sources, source_lengths = self.sources
        padding = beyond(source_lengths, sources)
        return replace(
            self,
            x=torch.where(beyond(self.lengths, self.x)[..., None], value, self.x),
            y=None if self.y is None else torch.where(padding[..., None], value, self.y),
            v=torch.where(padding[:, None, :, None], value, self.v),
        )


def beyond(lengths: Tensor | None, points: Tensor) -> Tensor:
    rows = torch.arange(points.shape[1]).expand(points.shape[:2])
    return torch.zeros_like(rows, dtype=torch.bool) if lengths is None else rows >= lengths[:, None]


def random_problem(
    seed: int,
    num_queries: int,
    num_sources: int | None = None,
    *,
    num_clouds: int = 2,
    dim: int = 3,
    num_heads: int = 2,
    num_channels: int = 3,
    radius: float = 1.0,
    scale: float = 1.0,
    offset: float = 0.0,
    duplicates: bool = False,
    padded: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Draw normal points times scale; num_sources None is a self-interaction; padded draws lengths, 0 among them."""
    g = torch.Generator().manual_seed(seed)

    def cloud(num_rows: int) -> Tensor:
        x = torch.randn(num_clouds, num_rows, dim, generator=g, dtype=torch.float64)
        if duplicates:
            x = x[:, torch.randint(max(1, num_rows // 4), (num_rows,), generator=g)]
        return ((x + offset) * scale).to(dtype)

    def some_lengths(num_rows: int) -> Tensor | None:
        if not padded:
            return None
        lengths = torch.randint(0, num_rows + 1, (num_clouds,), generator=g)
        return torch.where(torch.arange(num_clouds) == num_clouds - 1, lengths * (seed % 3 > 0), lengths)

    x, y = cloud(num_queries), None if num_sources is None else cloud(num_sources)
    num_values = num_queries if num_sources is None else num_sources
    v = torch.randn(num_clouds, num_heads, num_values, num_channels, generator=g, dtype=torch.float64).to(dtype)
    # Between R / 8 and 2 R: exp(-R^2 / (2 bandwidth^2)) is then above 1e-14, far from underflow in float32.
    bandwidth = radius * scale * 2 ** torch.linspace(-3, 1, num_heads, dtype=torch.float64)
    lengths = some_lengths(num_queries)
    source_lengths = None if num_sources is None else some_lengths(num_sources)
    return Problem(x, v, bandwidth.to(dtype), radius * scale, y, lengths, source_lengths)


def output_and_gradients(function, problem: Problem, g: Tensor, **keywords) -> dict[str, Tensor]:
    """Return the output and all gradients of sum(g out), by name."""
    names = [name for name in ("x", "v", "bandwidth", "y") if getattr(problem, name) is not None]
    leaves = {name: getattr(problem, name).clone().requires_grad_() for name in names}
    problem = replace(problem, **leaves)
    out = function(problem.x, problem.v, problem.bandwidth, **problem.keywords, **keywords)
    gradients = torch.autograd.grad(out, list(leaves.values()), g.to(out.dtype))
    return {"out": out.detach(), **dict(zip(names, gradients, strict=True))}


def rounding_floor(problem: Problem, g: Tensor, normalize: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Bound the rounding error of the output and the gradients to first order in eps, from dense float64 weights.

    u = |x_i - y_j|^2 / R^2 is known to 4 eps. So w = exp(-kappa u) (1 - u)^2 is known to eps times 4 (1 + kappa) w (the
    exponent) plus 8 exp(-kappa u) (1 - u) (the cut-off), and p = |dw/du| likewise; a sum adds 32 eps of the sum of the
    absolute terms (worst case number of terms times eps, typically its square root: at most 129^2 terms here).
    """
    eps, problem = torch.finfo(dtype).eps, problem.with_padding(0.0).to(torch.float64)
    y, source_lengths = problem.sources
    is_query, is_source = ~beyond(problem.lengths, problem.x), ~beyond(source_lengths, y)
    r2 = (problem.x[:, :, None] - y[:, None]).square().sum(-1)  # (B, N, M)
    u = (r2 / problem.radius**2).clamp(max=1)[:, None]  # (B, 1, N, M)
    kappa = (problem.radius**2 / (2 * problem.bandwidth**2))[:, None, None]
    e = torch.exp(-kappa * u) * (u < 1) * (is_query[:, :, None] & is_source[:, None])[:, None]  # (B, H, N, M)
    c = 1 - u
    w, p = e * c**2, e * c * (kappa * c + 2)
    error_w = eps * (4 * (1 + kappa) * w + 8 * e * (c + eps))
    error_p = eps * (4 * (1 + kappa) * p + 16 * e * (1 + kappa))
    v, g = problem.v.abs(), torch.where(is_query[:, None, :, None], g.to(torch.float64), 0).abs()
    if normalize == "kernel":
        z = w.sum(-1, keepdim=True)  # (B, H, N, 1)
        z = torch.where(z > 0, z, torch.inf)
        relative = error_w.sum(-1, keepdim=True) / z
    else:
        z = is_source.sum(1).clamp(min=1)[:, None, None, None].double()
        relative = torch.zeros_like(w[..., :1])
    relative = relative + 32 * eps
    mean_v, ghat = w @ v / z, g / z
    s = ghat @ v.transpose(-1, -2)  # (B, H, N, M)
    if normalize == "kernel":
        s = s + (ghat * mean_v).sum(-1, keepdim=True)
    pull = (s * (error_p + p * relative)).sum(1)  # (B, N, M)
    pull = pull[..., None] * 2 * (problem.x[:, :, None] - y[:, None]).abs() / problem.radius**2  # (B, N, M, D)
    dx, dy = pull.sum(2), pull.sum(1)
    spread = (s * (error_w + w * relative) * u).sum((0, 2, 3))
    return {
        "out": error_w @ v / z + relative * mean_v,
        "v": (error_w + w * relative).transpose(-1, -2) @ ghat,
        "x": dx + dy if problem.y is None else dx,
        "y": dy,
        "bandwidth": spread * problem.radius**2 / problem.bandwidth**3,
    }


def build(problem: Problem) -> BallGeometry:
    return BallGeometry.build(problem.x, problem.radius, problem.lengths, problem.y, problem.source_lengths)


def upstream(problem: Problem, seed: int = 0) -> Tensor:
    """Draw a gradient of the output."""
    shape = (*problem.v.shape[:2], problem.x.shape[1], problem.v.shape[3])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=problem.v.dtype)


def assert_as_exact_as_dense(function, problem: Problem, normalize: str) -> None:
    """The error is at most twice that of the dense reference in the same dtype, or what rounding owes anyway."""
    g = upstream(problem)
    exact = output_and_gradients(ball_convolution_reference, problem.to(torch.float64), g, normalize=normalize)
    dense = output_and_gradients(ball_convolution_reference, problem, g, normalize=normalize)
    ours = output_and_gradients(function, problem, g, normalize=normalize)
    floor = rounding_floor(problem, g, normalize, problem.x.dtype)
    for name, value in exact.items():
        assert ours[name].dtype == dense[name].dtype
        error, allowed = (ours[name] - value).abs(), 2 * (dense[name] - value).abs() + floor[name]
        # subnormal float32 results (a gradient of x at scale 1e25, say) have no relative accuracy to keep
        allowed = allowed + 2 * torch.finfo(problem.x.dtype).tiny
        worst = (error - allowed).max() if error.numel() else -1
        assert (error <= allowed).all(), f"{name}: beyond the bound by {worst}"
