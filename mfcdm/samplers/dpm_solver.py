"""The probability flow by a multistep rule: second order for one score evaluation a step."""

from dataclasses import dataclass

from torch import Tensor

from mfcdm.networks.parametrization import noise_from_x_0
from mfcdm.samplers.base import Point, Prediction, Sampler, System


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M): the exponential integrator of the probability flow with x_0 predicted for the whole step,

    x_t = alpha x_0 + sigma eps    ->    alpha' x_0 + sigma' eps,

    where x_0 lies on the line through the last two predictions, at the middle of the step in log-SNR
    (`Prediction.extrapolated`). The first step has one prediction and is first order.

    Args:
        noise: 0. The SDE variant, SDE-DPM-Solver++(2M), is `Langevin` with noise = 1: the same step, then the exact
            Ornstein-Uhlenbeck noise step.

    Source: Lu et al., DPM-Solver++ (2022), algorithm 2.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        if self.noise != 0.0:
            raise ValueError(
                f"DPMSolver is deterministic: noise must be 0, got {self.noise}; Langevin is its SDE variant"
            )

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Prediction | None
    ) -> tuple[Tensor, Prediction]:
        """One step from before.t to after.t with one score evaluation."""
        prediction = Prediction(before, system.data_prediction(x, before))
        return flow_step(x, prediction.extrapolated(previous, after), before, after), prediction


def flow_step(x: Tensor, x_0: Tensor, before: Point, after: Point) -> Tensor:
    """alpha' x_0 + sigma' eps with eps = (x - alpha x_0) / sigma: exact where the data x_0 (B, N, D) do not move."""
    eps = noise_from_x_0(x_0, x, before.alpha, before.sigma)
    return after.alpha * x_0 + after.sigma * eps
