"""A predictor moves the particles in time, a corrector brings them closer to the marginal there."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from mfcdm.checks import check_whole
from mfcdm.samplers.base import Carried, Point, Prediction, Sampler, System
from mfcdm.samplers.dpm_solver import DPMSolver
from mfcdm.samplers.kinetic import UnderdampedLangevin, baoab, check_friction
from mfcdm.samplers.multiplicative import Geometric, LinearNoise
from mfcdm.samplers.probability_flow import ProbabilityFlow
from mfcdm.samplers.stochastic import Langevin, StochasticSampler, ornstein_uhlenbeck
from mfcdm.sde import SDE

Predictor = Literal["dpm_solver", "geometric", "langevin", "linear_noise", "probability_flow", "underdamped_langevin"]
PREDICTORS: dict[str, type[Sampler]] = {
    "dpm_solver": DPMSolver,
    "geometric": Geometric,
    "langevin": Langevin,
    "linear_noise": LinearNoise,
    "probability_flow": ProbabilityFlow,
    "underdamped_langevin": UnderdampedLangevin,
}


@dataclass(frozen=True)
class Corrected:
    """What a step hands on, tensors (B, N, D) or None: the predictor's own, velocities, and x_0 of the corrections."""

    predicted: Carried
    velocity: Tensor | None = None
    first: Tensor | None = None  # x_0 before all corrections
    last: Tensor | None = None  # x_0 before the last one
    moved: Tensor | None = None  # what the last one changed in x_0

    def seen_from(self, x_0: Tensor) -> Self:
        """The same, given x_0 after all corrections; a multistep predictor follows the flow, not the corrections."""
        if self.first is None or self.last is None:
            return self
        predicted = self.predicted
        if isinstance(predicted, Prediction):
            predicted = replace(predicted, x_0=predicted.x_0 + (x_0 - self.first))
        return replace(self, predicted=predicted, moved=x_0 - self.last)


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A step of any sampler, then corrections: Langevin dynamics at the time reached, which keep p_t.

    Song et al. choose the corrector's step size epsilon so that noise and score have a given ratio of norms,
    epsilon = 2 (snr |xi| / |s|)^2. Here |xi| / |s| is what it is for the true score of noisy data, sigma, so that a
    cloud depends neither on its batch nor on its padding: epsilon = 2 (snr sigma)^2. A correction is

    "langevin": the Ornstein-Uhlenbeck step of `Langevin` with gamma sigma^2 = 2 epsilon, gamma = (2 snr)^2, against the
    data predicted there, extrapolated by half of what the last correction changed (`stochastic.py` says why).
    "underdamped": one step of kinetic Langevin dynamics by the symmetric splitting BAOAB with tau = 2 snr; velocities
    last from one correction and one step to the next. With great friction the same epsilon, 1/2 (tau sigma)^2.

    Either takes num_corrections + 1 evaluations a step with a predictor of one evaluation.

    Args:
        noise: of a predictor given by name, where it has any, and a factor of snr; 0 corrects nothing.
        center: of a predictor given by name.
        predictor: a name, or a sampler, whose own settings hold apart from num_steps and grid.
        corrector: "langevin" or "underdamped".
        num_corrections: a step, >= 0.
        snr: ratio of noise to score in a correction, > 0; with "underdamped" noise * snr < 1, where it is stable.
        friction: of "underdamped", > 0.

    Source: Song et al. (2021), algorithms 2 to 5.
    """

    predictor: Predictor | Sampler = "dpm_solver"
    corrector: Literal["langevin", "underdamped"] = "langevin"
    num_corrections: int = 1
    snr: float = 0.16
    friction: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        if not isinstance(self.predictor, Sampler) and self.predictor not in PREDICTORS:
            raise ValueError(f"predictor must be a sampler or one of {', '.join(PREDICTORS)}, got {self.predictor!r}")
        if isinstance(self.predictor, PredictorCorrector):
            raise ValueError("the predictor of a PredictorCorrector must be another sampler")
        if self.corrector not in ("langevin", "underdamped"):
            raise ValueError(f"corrector must be 'langevin' or 'underdamped', got {self.corrector!r}")
        check_whole("num_corrections", self.num_corrections, 0)
        if not 0.0 < self.snr < float("inf"):
            raise ValueError(f"snr must be > 0 and finite, got {self.snr}")
        if self.corrector == "underdamped" and self.noise * self.snr >= 1.0:
            raise ValueError(f"noise * snr must be < 1 with corrector 'underdamped', got {self.noise} * {self.snr}")
        check_friction(self.friction)

    @property
    def predicting(self) -> Sampler:
        """The predictor itself."""
        if isinstance(self.predictor, Sampler):
            return self.predictor
        make = PREDICTORS[self.predictor]
        if issubclass(make, StochasticSampler):
            return make(self.num_steps, self.noise, self.center, self.grid)
        return make(self.num_steps, center=self.center, grid=self.grid)

    def point(self, sde: SDE, t: float) -> Point:
        """A time of the grid as the predictor sees it."""
        return self.predicting.point(sde, t)

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Corrected | None
    ) -> tuple[Tensor, Corrected]:
        """One step from before.t to after.t and num_corrections at after.t."""
        if previous is not None and previous.first is not None:
            x_0 = system.data_prediction(x, before)  # which the predictor then has for nothing
            previous = previous.seen_from(x_0)
        x, predicted = self.predicting.step(x, before, after, system, previous and previous.predicted)
        if self.noise == 0.0 or self.num_corrections == 0:
            return x, Corrected(predicted)
        return self.correct(x, after, system, previous, predicted)

    def correct(
        self, x: Tensor, at: Point, system: System, previous: Corrected | None = None, predicted: Carried = None
    ) -> tuple[Tensor, Corrected]:
        """Apply num_corrections to x (B, N, D) at one time, going on where `previous` ended; see the class."""
        tau = 2 * self.noise * self.snr
        velocity, moved = (previous.velocity, previous.moved) if previous is not None else (None, None)
        first = last = system.data_prediction(x, at)
        for n in range(self.num_corrections):
            x_0 = system.data_prediction(x, at)
            if self.corrector == "underdamped":
                velocity = system.noise_like(x) if velocity is None else velocity
                x, velocity = baoab(x, velocity, at, tau, self.friction, system)
            else:
                moved = x_0 - last if n > 0 else moved
                middle = x_0 if moved is None else x_0 + 0.5 * moved
                x = ornstein_uhlenbeck(x, at.alpha * middle, at.sigma, tau**2, system)
            last = x_0
        return x, Corrected(predicted, velocity, first, last)
