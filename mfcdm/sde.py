"""Forward processes: variance-preserving diffusions of N particles that do not interact.

    dx = -1/2 beta(t) x dt + sqrt(beta(t)) dB,    x_t = alpha(t) x_0 + sigma(t) noise,    alpha^2 + sigma^2 = 1.

x_0 is data and t grows from t_min towards noise at t = 1. Because the particles do not interact on the way to noise,
the marginal is known in closed form at every cardinality; the interaction appears in the score of the way back.
Source: Song et al., Score-based generative modeling through stochastic differential equations (2021), eq. 11 and 29.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mfcdm.randomness import Generators, standard_normal


class SDE(ABC):
    """A variance-preserving SDE, given by beta(t) and alpha(t) = exp(-1/2 int_0^t beta)."""

    t_min: float

    def __init__(self, t_min: float) -> None:
        if not 0.0 < t_min < 1.0:
            raise ValueError(f"t_min must lie in (0, 1), got {t_min}")
        self.t_min = float(t_min)

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t) = -2 d log alpha / dt, like t."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t), like t."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t with log_snr(t) = log_snr, the inverse of `log_snr`; like its argument."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient alpha(t), like t."""
        return self.log_alpha(_tensor(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient sigma(t) = sqrt(1 - alpha(t)^2), like t; accurate also where alpha is close to 1."""
        return (-torch.expm1(2 * self.log_alpha(_tensor(t)))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """Log signal-to-noise ratio log(alpha^2 / sigma^2), like t, in nats; strictly decreasing."""
        log_alpha = self.log_alpha(_tensor(t))
        return 2 * log_alpha - (-torch.expm1(2 * log_alpha)).log()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift -1/2 beta(t) x of the forward process.

        Args:
            x: (B, N, D) particles.
            t: (B,) times.

        Returns:
            (B, N, D).
        """
        return -0.5 * per_cloud(self.beta(_tensor(t).to(x)), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion coefficient sqrt(beta(t)), like t."""
        return self.beta(_tensor(t)).sqrt()

    def marginal(self, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t given x_0: (alpha(t) x_0, sigma(t)).

        Args:
            x_0: (B, N, D) data.
            t: (B,) times.

        Returns:
            mean (B, N, D) and std (B,), in x_0's dtype.
        """
        t = _tensor(t).to(x_0)
        return per_cloud(self.alpha(t), x_0) * x_0, self.sigma(t)

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t given x_s, s <= t: (r x_s, sqrt(1 - r^2)) with r = alpha(t) / alpha(s).

        Args:
            x_s: (B, N, D) particles at time s.
            s: (B,) times.
            t: (B,) later times.

        Returns:
            mean (B, N, D) and std (B,), in x_s's dtype.
        """
        # In float64: near t = 0 both logarithms are far smaller than their difference from 0 in float32.
        s, t = (_tensor(time).to(x_s.device, torch.float64) for time in (s, t))
        log_ratio = self.log_alpha(t) - self.log_alpha(s)
        return per_cloud(log_ratio.exp(), x_s) * x_s, (-torch.expm1(2 * log_ratio)).clamp_min(0).sqrt().to(x_s)

    def prior_sample(
        self,
        shape: tuple[int, ...],
        generator: Generators = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw x_1 from N(0, I), which differs from the law of x_1 by alpha(1) of signal.

        Args:
            shape: (B, N, D).
            generator: one for the batch, or one a cloud.
            device: of the result.
            dtype: of the result; default torch's default.
        """
        return standard_normal(shape, generator, device=device, dtype=dtype)


class VPSDE(SDE):
    """Linear noise rate beta(t) = beta_min + t (beta_max - beta_min).

    log alpha(t) = -1/4 t^2 (beta_max - beta_min) - 1/2 t beta_min.

    Args:
        beta_min: rate at t = 0, > 0.
        beta_max: rate at t = 1, >= beta_min.
        t_min: smallest time that is trained and sampled, in (0, 1).

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> None:
        super().__init__(t_min)
        if not 0.0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"0 < beta_min <= beta_max is needed, got beta_min={beta_min}, beta_max={beta_max}")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), like t."""
        return self.beta_min + _tensor(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t), like t."""
        t = _tensor(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The positive root of 1/2 (beta_max - beta_min) t^2 + beta_min t = softplus(-log_snr) = -2 log alpha."""
        s = softplus(-_tensor(log_snr))
        # This form of the quadratic's root loses no digits when t is small, and holds for beta_max = beta_min.
        return 2 * s / (self.beta_min + (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * s).sqrt())

    def __repr__(self) -> str:
        return f"VPSDE(beta_min={self.beta_min}, beta_max={self.beta_max}, t_min={self.t_min})"


class CosineVPSDE(SDE):
    """Cosine schedule alpha(t) = cos(theta t), sigma(t) = sin(theta t), with log_snr(1) = -10.

    theta = arctan(e^5), 0.4 % short of pi/2: time is rescaled so that the log-SNR ends at -10 instead of falling to
    minus infinity. This keeps alpha(1) > 0, and unlike a hard cut keeps log_snr strictly decreasing and smooth.

    Args:
        t_min: smallest time that is trained and sampled, in (0, 1).

    Source: Nichol & Dhariwal, Improved denoising diffusion probabilistic models (2021), eq. 17, in continuous time.
    """

    LOG_SNR_MIN = -10.0

    def __init__(self, t_min: float = 1e-3) -> None:
        super().__init__(t_min)
        self.theta = math.atan(math.exp(-0.5 * self.LOG_SNR_MIN))

    def beta(self, t: Tensor) -> Tensor:
        """beta(t) = 2 theta tan(theta t), like t."""
        return 2 * self.theta * (self.theta * _tensor(t)).tan()

    def log_alpha(self, t: Tensor) -> Tensor:
        """log cos(theta t) = -1/2 log(1 + tan^2), like t; in this form no digits are lost where cos is near 1."""
        return -0.5 * (self.theta * _tensor(t)).tan().square().log1p()

    def sigma(self, t: Tensor) -> Tensor:
        """sin(theta t), like t."""
        return (self.theta * _tensor(t)).sin()

    def log_snr(self, t: Tensor) -> Tensor:
        """-2 log tan(theta t), like t."""
        return -2 * (self.theta * _tensor(t)).tan().log()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """arctan(exp(-log_snr / 2)) / theta, like its argument."""
        return (-0.5 * _tensor(log_snr)).exp().atan() / self.theta

    def __repr__(self) -> str:
        return f"CosineVPSDE(t_min={self.t_min})"


def per_cloud(coefficient: Tensor, x: Tensor) -> Tensor:
    """View a coefficient a cloud, (B,) or a scalar, so that it multiplies x (B, N, D); in x's dtype and device."""
    coefficient = coefficient.to(x)
    return coefficient if coefficient.ndim == 0 else coefficient.reshape(-1, *[1] * (x.ndim - 1))


def _tensor(t: Tensor | float) -> Tensor:
    """Let a Python number stand for a time; it is taken in float64."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
