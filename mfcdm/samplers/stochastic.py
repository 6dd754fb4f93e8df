"""SDE samplers: choices of the noise matrix G in one marginal-preserving family.

Let v = -1/2 beta x - 1/2 beta s be the velocity of the probability flow, s the score, and D = 1/2 G G^T. For any G,

    x <- x - v h + (D s + div D) h + G sqrt(h) xi,     t <- t - h,

keeps the marginals p_t: the first term moves p_t to p_{t-h}, the other two are a diffusion that is reversible with
respect to p_t. A step here splits the two and takes one score evaluation, from which the data x_0 are predicted at the
middle of the step (`Prediction.extrapolated`). The flow step is the exponential integrator with x_0 held fixed,

    x_t = alpha x_0 + sigma eps    ->    alpha' x_0 + sigma' eps,

and the noise step then runs for h at t - h against the score that the same prediction implies there,
s(y) = (alpha' x_0 - y) / sigma'^2. This s has the stiff slope -1/sigma'^2 of the true score, and integrating that slope
exactly makes every G stable at every step size, with no clip. In the clock of the noise (`strength.py`) the
strength of a step is gamma = noise^2 (clock after - clock before), so that g^2 h = gamma sigma'^2; with g^2 = beta the
clock is the log-SNR.

**Where steps are uneven** the noise step takes its x_0 from another point of the same line. Near the data, where sigma
is far below the spread of the law, x_0 follows the noise: a step relaxes x by the share q = 1 - e^(-k) to the data
predicted before it, and a part r of the last move is extrapolated. Noise of variance sigma^2 (1 - e^(-2k)) then lasts
with the gain a, a force with q a, and the balance of the two, the temperature, is that of p_t only if
a_n = 2 / (1 + e^(-k_n)) = 1 + q_{n+1} r_{n+1} a_{n+1}, that is

    r_{n+1} = 1/2 tanh(k_n / 2) / tanh(k_{n+1} / 2),    k = the relaxation of a step, 1/2 gamma for G = g I.

On an even grid this is the reach 1/2 of the flow's extrapolation. On a grid that is uniform in t the flow's would grow
to 1 near the data, and the temperature with it, to 1 / (2 (1 - r)): strong noise, and multiplicative noise far from its
centre is strong, would leave samples too wide. Where `noise_until` cuts a step short, r grows as k_{n+1} falls, and
q_{n+1} r_{n+1} does not: formulas below add q r to x and never subtract numbers of the size of r, and a step with less
noise than rounding leaves has none.

After the Langevin-type, linear-noise and geometric SDEs of Oh, Lim & Kim (ICLR 2024); using them as samplers of a
diffusion model is our construction.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from mfcdm.samplers.base import Point, Prediction, Sampler, System
from mfcdm.samplers.dpm_solver import flow_step
from mfcdm.samplers.strength import NoiseSchedule, check_strength, noise_clock
from mfcdm.sde import SDE

EVEN = 1e-6  # relative difference that counts as rounding: a grid even in log-SNR is even to rounding only


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Probability-flow step, then a noise step that keeps the marginal.

    Args:
        noise_schedule: g(t) / noise, "beta" for sqrt(beta(t)), "constant", or "sigma" for proportional to sigma(t);
            see `mfcdm.samplers.strength.noise_clock`.
        noise_until: time below which there is no noise, in [0, 1).
    """

    noise_schedule: NoiseSchedule = "beta"
    noise_until: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        check_strength(self.noise_schedule, self.noise_until)

    def point(self, sde: SDE, t: float) -> Point:
        """A time of the grid, with the clock of this sampler's noise."""
        return replace(Point.at(sde, t), clock=noise_clock(sde, t, self.noise_schedule, self.noise_until))

    def gamma(self, before: Point, after: Point) -> float:
        """int g^2 / sigma^2 dt over a step."""
        return self.noise**2 * (after.clock - before.clock)

    def strength(self, previous: Prediction | None, before: Point, after: Point) -> float:
        """gamma of a step, 0 where it is nothing but rounding beside that of the step before."""
        now = self.gamma(before, after)
        return 0.0 if previous is not None and now <= EVEN * self.gamma(previous.at, before) else now

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Prediction | None
    ) -> tuple[Tensor, Prediction]:
        """One step from before.t to after.t with one score evaluation."""
        prediction = Prediction(before, system.data_prediction(x, before))
        x_0 = prediction.extrapolated(previous, after)
        x = flow_step(x, x_0, before, after)
        gamma = self.strength(previous, before, after)
        if gamma > 0.0:
            x_0 = self.data_of_noise(x, x_0, prediction, previous, after, system)
            x = self.noise_step(x, after.alpha * x_0, after.sigma, gamma, system)
        return x, prediction

    def data_of_noise(
        self, x: Tensor, x_0: Tensor, prediction: Prediction, previous: Prediction | None, after: Point, system: System
    ) -> Tensor:
        """The data (B, N, D) that the noise step at x takes: x_0, those of the flow step, unless steps are uneven."""
        if previous is None:
            return x_0
        steps = (previous.at, prediction.at, after)
        earlier, now = (self.gamma(a, b) for a, b in pairwise(steps))
        spans = [b.log_snr - a.log_snr for a, b in pairwise(steps)]
        if math.isclose(*spans, rel_tol=EVEN) and math.isclose(earlier, now, rel_tol=EVEN):
            return x_0
        reach = 0.5 * self.relaxation(x, earlier, system) / self.relaxation(x, now, system)
        return prediction.x_0 + reach * (prediction.x_0 - previous.x_0)

    @abstractmethod
    def relaxation(self, x: Tensor, gamma: float, system: System) -> Tensor:
        """tanh(k / 2), e^(-k) the share that a noise step leaves of a distance from the mean; fits x (B, N, D)."""

    @abstractmethod
    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """Diffuse x (B, N, D) against s(x) = (mean - x) / sigma^2 for a time in which g^2 h = gamma sigma^2."""


@dataclass(frozen=True)
class Langevin(StochasticSampler):
    """Additive noise, G = g(t) I, div D = 0; with noise = 1 the reverse SDE, as by SDE-DPM-Solver++(2M).

    The noise step is an Ornstein-Uhlenbeck process, solved exactly:
    x <- x + (1 - e^(-gamma/2)) (mean - x) + sigma sqrt(1 - e^(-gamma)) xi.
    """

    def relaxation(self, x: Tensor, gamma: float, system: System) -> Tensor:
        """See `StochasticSampler`."""
        return x.new_full((), math.tanh(0.25 * gamma))

    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """See the class."""
        return ornstein_uhlenbeck(x, mean, sigma, gamma, system)


def ornstein_uhlenbeck(x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
    """Langevin's noise step, which `PredictorCorrector` takes too."""
    x = x - math.expm1(-0.5 * gamma) * (mean - x)
    return x + sigma * math.sqrt(-math.expm1(-gamma)) * system.noise_like(x)
