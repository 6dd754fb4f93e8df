"""Conversions between what a network may predict: v, noise, x_0 and score. All of them are here.

With x_t = alpha x_0 + sigma noise and alpha^2 + sigma^2 = 1:

    v = alpha noise - sigma x_0,    noise = sigma x_t + alpha v,    x_0 = alpha x_t - sigma v,    score = -noise / sigma

alpha and sigma are numbers or tensors that broadcast to x_t (B, N, D).
Source of v: Salimans & Ho, Progressive distillation for fast sampling of diffusion models (2022), appendix D.
"""

from typing import Literal

from torch import Tensor

Prediction = Literal["v", "noise"]
PREDICTIONS: tuple[Prediction, ...] = ("v", "noise")
Coefficient = Tensor | float


def prediction_of(network: object) -> Prediction:
    """What a network predicts: its attribute `prediction`; a network without one predicts v.

    Raises:
        ValueError: if the attribute is neither "v" nor "noise".
    """
    prediction = getattr(network, "prediction", "v")
    if prediction not in PREDICTIONS:
        raise ValueError(f"a network predicts 'v' or 'noise', got prediction={prediction!r}")
    return prediction


def target(prediction: Prediction, x_0: Tensor, noise: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """What the network should output for (x_0, noise): v = alpha noise - sigma x_0, or noise; (B, N, D)."""
    return noise if prediction == "noise" else alpha * noise - sigma * x_0


def noise_from_output(
    prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
) -> Tensor:
    """Predicted noise, sigma x_t + alpha v; (B, N, D)."""
    return output if prediction == "noise" else sigma * x_t + alpha * output


def x_0_from_output(
    prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
) -> Tensor:
    """Predicted data, alpha x_t - sigma v; (B, N, D)."""
    return (x_t - sigma * output) / alpha if prediction == "noise" else alpha * x_t - sigma * output


def score_from_noise(noise: Tensor, sigma: Coefficient) -> Tensor:
    """Score -noise / sigma; (B, N, D)."""
    return -noise / sigma


def x_0_from_score(score: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """Tweedie's formula (x_t + sigma^2 score) / alpha for E[x_0 | x_t]; (B, N, D)."""
    return (x_t + sigma**2 * score) / alpha


def noise_from_x_0(x_0: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """(x_t - alpha x_0) / sigma; (B, N, D)."""
    return (x_t - alpha * x_0) / sigma
