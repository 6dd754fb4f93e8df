"""The probability flow, a deterministic path with the marginals of the SDE."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mfcdm.networks.parametrization import noise_from_x_0
from mfcdm.samplers.base import Point, Prediction, Sampler, System


@dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """dx/dt = -1/2 beta (x + s), solved in u = x / alpha and r = sigma / alpha, where it reads du/dr = eps(t, x).

    eps = -sigma s is the predicted noise. Euler's rule in these variables is exact for a single datum (it is DDIM);
    Heun's averages the slope at both ends of the step: second order, two score evaluations.

    Args:
        noise: 0; a deterministic sampler takes no other value.
        method: "euler" or "heun".

    Source: Song et al. (2021), eq. 13; Karras et al. (2022), algorithm 1.
    """

    noise: float = 0.0
    method: Literal["euler", "heun"] = "heun"

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        if self.noise != 0.0:
            raise ValueError(f"ProbabilityFlow is deterministic: noise must be 0, got {self.noise}")
        if self.method not in ("euler", "heun"):
            raise ValueError(f"method must be 'euler' or 'heun', got {self.method!r}")

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Prediction | None
    ) -> tuple[Tensor, None]:
        """One step from before.t to after.t with one (euler) or two (heun) score evaluations."""
        length = after.sigma / after.alpha - before.sigma / before.alpha
        eps = _noise_prediction(x, before, system)
        euler = after.alpha * (x / before.alpha + length * eps)
        if self.method == "euler":
            return euler, None
        eps = 0.5 * (eps + _noise_prediction(euler, after, system))
        return after.alpha * (x / before.alpha + length * eps), None


def _noise_prediction(x: Tensor, at: Point, system: System) -> Tensor:
    return noise_from_x_0(system.data_prediction(x, at), x, at.alpha, at.sigma)
