"""The error of branching in the records: its closed form under a Gaussian law, and that it disturbs no run."""

import json
import math

import pytest
import torch

from mfcdm.branching import Renoise
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import standard_normal
from mfcdm.subdivision import Subdivision
from mfcdm.training.branching_error import EVERY, Boundary, BranchingError, BranchingWatch, boundaries_of
from mfcdm.training.loggers import JsonLines
from mfcdm.training.processes import ALONE
from tests.laws import generator
from tests.training.runs import LEVELS, SDE, state
from tests.training.test_branching import trainer

SPREAD, T = 0.5, 0.4


def measured(rule, boundary, num_batches=200):
    """Mean error over batches of clouds from N(0, SPREAD^2 I), and its standard error."""
    error, source = BranchingError(SDE, [boundary], ALONE), generator(1)
    found = []
    for _ in range(num_batches):
        x = SPREAD * standard_normal((16, boundary.before + boundary.after, 3), source, dtype=torch.float64)
        found.append(error(rule, Clouds(x), source))
    return float(torch.stack(found).mean()), float(torch.stack(found).std()) / math.sqrt(num_batches)


@pytest.mark.parametrize("push", [0.0, 0.7, 2.1, 50.0])
@pytest.mark.parametrize("ratio", [2, 3])
def test_copies_that_are_pushed_have_the_error_of_the_closed_form(push, ratio):
    """(b - 1) (1 - E|c - c'| / E|y - y'|): copies of one parent differ by the push's noise alone, c - c' ~ N(0, 2 s^2).

    y - y' ~ N(0, 2 (alpha^2 SPREAD^2 + sigma^2)) at the pushed time.
    """
    rule = Renoise(push)
    pushed = torch.tensor([rule.pushed_time(T, SDE)], dtype=torch.float64)
    _, noise = SDE.transition(torch.zeros(1, 1, 1, dtype=torch.float64), torch.full_like(pushed, T), pushed)
    spread = (SDE.alpha(pushed).square() * SPREAD**2 + SDE.sigma(pushed).square()).sqrt()
    expected = (ratio - 1) * (1 - float(noise / spread))
    mean, error = measured(rule.branch, Boundary(T, 24, 24 * ratio))
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < 0.05 * ratio  # the smallest difference between two pushes here is larger


def test_fresh_particles_have_none():
    def fresh(x, t, sde, num_particles, rows):
        noise = standard_normal((x.shape[0], num_particles, 3), rows, dtype=x.dtype)
        at = torch.tensor([t], dtype=x.dtype)
        return noise * (sde.alpha(at).square() * SPREAD**2 + sde.sigma(at).square()).sqrt(), t

    mean, error = measured(fresh, Boundary(T, 8, 16))
    assert mean == pytest.approx(0.0, abs=4 * error)


def test_boundaries_are_where_particles_grow_in_number():
    levels = Subdivision([8, 16, 16, 64], [1.0, 0.8, 0.6, 0.3])
    assert boundaries_of(MeanFieldScoreMatching(SDE, levels)) == [(0.8, 8, 16), (0.3, 16, 64)]
    assert boundaries_of(MeanFieldScoreMatching(SDE, Subdivision([16], [1.0]))) == []


def test_a_run_records_it_and_learns_the_same_to_the_last_bit(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        watched = trainer(tmp_path / "watched", Renoise(0.7), loggers=[log], log_every=1, max_steps=EVERY + 2)
        watched.run()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "branching/error" in record] == [1, 1 + EVERY]
    blind = trainer(tmp_path / "blind", Renoise(0.7), log_every=1, max_steps=EVERY + 2)
    blind.branching_watch.rule = None
    blind.run()
    assert all(torch.equal(tensor, state(blind)[name]) for name, tensor in state(watched).items())


@pytest.mark.parametrize(
    ("rule", "levels"), [(None, LEVELS), (Renoise(0.7), Subdivision([16], [1.0])), (Renoise(0.7), LEVELS)]
)
def test_where_there_is_nothing_to_measure_nothing_is_recorded(rule, levels):
    class Nine:  # points in the smallest cloud: 8 parents, and one that has no other to be far from
        clouds, seed = Clouds(torch.zeros(4, 9, 3)), 0

    watch = BranchingWatch(rule, MeanFieldScoreMatching(SDE, levels), Nine, ALONE)
    watch.step(Nine.clouds, 0)
    assert watch.flush() == {}
