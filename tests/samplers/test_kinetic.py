"""Velocities: the exact kinetic step, BAOAB, correctors, and what they gain on an ill-conditioned law."""

import math

import pytest
import torch

from mfcdm.samplers import Langevin, PredictorCorrector, UnderdampedLangevin
from mfcdm.samplers.base import Point, System
from mfcdm.samplers.kinetic import exact_transition
from mfcdm.samplers.predictor_corrector import Corrected
from mfcdm.sde import CosineVPSDE


def gaussian_system(variances):
    """The score -x / variance, coordinate by coordinate: a law N(0, diag(variances)) at a fixed time, sigma = 1."""
    return Units(lambda x, t, lengths=None: -x / variances, None, None, None)


class Units(System):
    """Makes the n-th noise the n-th unit vector along the particles, so that a linear map returns its coefficients."""

    def noise_like(self, x):
        self.last["count"] = self.last.get("count", 0) + 1
        noise = torch.zeros_like(x)
        noise[:, self.last["count"]] = 1
        return noise


def at_time(t=0.3):
    return Point.at(CosineVPSDE(), t)


def propagated(method, variances, start, at):
    """Variances of x after num_corrections from N(0, start), without Monte-Carlo error; all (D,)."""
    x = torch.zeros(1, method.num_corrections + 3, len(variances), dtype=torch.float64)
    x[0, 0] = start.sqrt()
    return method.correct(x, at, gaussian_system(variances))[0].square().sum(dim=(0, 1))


@pytest.mark.parametrize("friction", [0.1, 2.0, 7.0])
@pytest.mark.parametrize("tau", [1e-4, 0.3, 5.0])
def test_the_kinetic_step_solves_its_equation(tau, friction):
    """The mean against 20,000 small steps of second order, the noise by what N(0, I) keeps and its leading order."""
    a, noise = (torch.tensor(matrix, dtype=torch.float64) for matrix in exact_transition(tau, friction))
    drift = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64) * tau / 20_000
    small = torch.eye(2, dtype=torch.float64) + drift + 0.5 * drift @ drift
    assert torch.allclose(a, torch.linalg.matrix_power(small, 20_000), rtol=1e-5, atol=1e-9)
    covariance = noise @ noise.T
    assert torch.allclose(a @ a.T + covariance, torch.eye(2, dtype=torch.float64), atol=1e-12), "N(0, I) stays"
    if tau < 1e-3:  # where I - A A^T is rounding's to lose: 1e-16 of 7e-14
        assert float(covariance[1, 1]) == pytest.approx(2 * friction * tau, rel=1e-3)
        assert float(covariance[0, 0]) == pytest.approx(2 / 3 * friction * tau**3, rel=5e-3)


def test_great_friction_is_langevin():
    """The same mean and variance of the noise step; what is left is of order 1 / friction^2."""
    sigma, gamma = 0.5, 0.8
    x = torch.zeros(1, 4, 1, dtype=torch.float64)
    x[0, 0] = 1.0
    mean = torch.zeros_like(x)
    kinetic, langevin = (
        method.noise_step(x, mean, sigma, gamma, gaussian_system(torch.ones(1)))
        for method in (UnderdampedLangevin(friction=1e3), Langevin())
    )
    assert float(kinetic[0, 0]) == pytest.approx(float(langevin[0, 0]), abs=1e-5)
    assert float(kinetic[0, 1:].norm()) == pytest.approx(float(langevin[0, 1:].norm()), abs=1e-3)


def affine_map(method, curvatures):
    """A correction as a linear map of (x, memory), (K, 2, 2), and one noise, (K, 2), for sigma = 1 and curvatures (K,).

    The memory is the velocity, or what the last correction moved the prediction by.
    """
    at, columns = Point(0.5, 1.0, 1.0, 0.0, 0.0), []
    for x, memory in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        start, held = (torch.zeros(1, 2, len(curvatures), dtype=torch.float64) for _ in range(2))
        start[0, 0], held[0, 0] = x, memory
        system = gaussian_system(1 / curvatures)
        moved, after = method.correct(start, at, system, Corrected(None, velocity=held, moved=held))
        if method.corrector == "langevin":
            after = after.seen_from(system.data_prediction(moved, at))
        memory = after.velocity if method.corrector == "underdamped" else after.moved
        columns.append(torch.stack([moved[0], memory[0]]))  # (2, coefficient and noise, K)
    return torch.stack([columns[0][:, 0], columns[1][:, 0]], dim=1).permute(2, 0, 1), columns[2][:, 1].mT


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.9])
@pytest.mark.parametrize("friction", [0.1, 2.0])
def test_baoab_keeps_the_variance_of_every_gaussian(tau, friction):
    """Softest to stiffest mode: the invariant covariance S = A S A^T + n n^T of (x, v), and that it is reached."""
    curvatures = torch.tensor([1.0, 0.6, 0.25, 0.01], dtype=torch.float64)
    maps, noises = affine_map(PredictorCorrector(corrector="underdamped", snr=tau / 2, friction=friction), curvatures)
    for a, noise, curvature in zip(maps, noises, curvatures.tolist(), strict=True):
        lifted = torch.eye(4, dtype=torch.float64) - torch.kron(a, a)
        invariant = torch.linalg.solve(lifted, torch.outer(noise, noise).flatten()).view(2, 2)
        assert float(invariant[0, 0]) * curvature == pytest.approx(1, rel=1e-9)
        assert float(torch.linalg.eigvals(a).abs().max()) < 1


@pytest.mark.parametrize(("corrector", "bias"), [("langevin", 0.02), ("underdamped", 1e-3)])
def test_corrections_bring_any_start_to_the_law(corrector, bias):
    """From three times too wide and from nothing; the Langevin corrector has 1.5 % of its own at snr = 0.3."""
    at = at_time()
    variances = at.sigma**2 * torch.tensor([1.0, 1.2, 3.0], dtype=torch.float64)
    for start in (9 * variances, 0 * variances):
        method = PredictorCorrector(corrector=corrector, num_corrections=400, snr=0.3)
        assert torch.allclose(propagated(method, variances, start, at) / variances, torch.ones(3).double(), atol=bias)


def corrections_to(method, curvatures, accuracy, horizon):
    """The fewest corrections from N(0, I) after which every variance stays right to `accuracy`, inf beyond horizon."""
    a, noise = affine_map(method, curvatures)
    covariance = torch.zeros(len(curvatures), 2, 2, dtype=torch.float64)
    covariance[:, 0, 0] = 1.0
    if method.corrector == "underdamped":
        covariance[:, 1, 1] = 1.0
    needed = 0
    for n in range(1, horizon + 1):
        covariance = a @ covariance @ a.mT + noise[:, :, None] * noise[:, None, :]
        if float((covariance[:, 0, 0] * curvatures - 1).abs().max()) > accuracy:
            needed = n + 1
    return needed if needed <= horizon else math.inf


def test_velocities_turn_a_condition_number_into_its_root():
    """Evaluations to 5 % in every variance of a Gaussian of condition number kappa, the best of a few step sizes.

    Overdamped the softest mode moves by less than its 1 / kappa a step: theory says kappa. With the friction 2 / sqrt
    kappa that damps it critically it needs some 1 / (frequency tau) steps, and its frequency is 1 / sqrt(kappa).
    """
    kappas, needed = [25.0, 100.0, 400.0, 1600.0], {"langevin": [], "underdamped": []}
    for kappa in kappas:
        curvatures = kappa ** -torch.linspace(0, 1, 5, dtype=torch.float64)
        settings = {
            "langevin": [(snr, 1.0) for snr in (0.4, 0.5, 0.6)],
            "underdamped": [(snr, share / math.sqrt(kappa)) for snr in (0.7, 0.9) for share in (1.4, 2.0)],
        }
        for corrector, choices in settings.items():
            methods = [PredictorCorrector(corrector=corrector, snr=snr, friction=f) for snr, f in choices]
            needed[corrector].append(min(corrections_to(m, curvatures, 0.05, int(6 * kappa)) for m in methods))
    slopes = {name: math.log(n[-1] / n[0]) / math.log(kappas[-1] / kappas[0]) for name, n in needed.items()}
    assert slopes["langevin"] == pytest.approx(1.0, abs=0.1)
    assert slopes["underdamped"] == pytest.approx(0.5, abs=0.1)
    assert needed["langevin"][-1] > 5 * needed["underdamped"][-1]
