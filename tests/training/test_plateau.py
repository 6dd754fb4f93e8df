"""When validations are said not to improve any more."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from mfcdm import checkpoint
from mfcdm.training.plateau import Plateau
from mfcdm.training.validation import ValidationOptions
from tests.training.runs import scores, scripted, state, trainer, validation


def wilson(count, answers):
    """Wilson's 95 % interval, which that of the 1-NNA is made of."""
    z, p = norm.ppf(0.975), count / answers
    center, scale = p + z * z / (2 * answers), 1 + z * z / answers
    half = z * math.sqrt(p * (1 - p) / answers + z * z / (4 * answers**2))
    return scores(p, (center - half) / scale, (center + half) / scale)


def improves(old, new) -> bool:
    plateau = Plateau()
    plateau.add(1, old)
    plateau.add(2, new)
    return plateau.since == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.6, 0.9, (0.1, 0.4)), (0.4, 0.7, (0.0, 0.2)), (0.1, 0.3, (0.2, 0.4)), (0.5, 0.5, (0.0, 0.0)), (0, 1, (0, 0.5))],
)
def test_the_interval_of_the_error_holds_exactly_the_errors_of_the_scores_interval(low, high, expected):
    errors = np.abs(np.linspace(low, high, 10_001) - 0.5)
    found = scores(low, low, high).error_interval
    assert found == pytest.approx(expected)
    assert found == pytest.approx((errors.min(), errors.max()), abs=1e-4)  # the grid's step


@pytest.mark.parametrize("answers", [40, 64, 200])
@pytest.mark.parametrize("chance", [0.5, 0.6, 0.75, 0.9, 0.97])
def test_a_network_that_stays_as_it_is_seldom_seems_to_improve(answers, chance):
    """The exact probability, over all pairs of independent scores of one law: one end of a 95 % interval."""
    counts = [n for n in range(answers + 1) if binom.pmf(n, answers, chance) > 1e-6]
    weight = {n: binom.pmf(n, answers, chance) for n in counts}
    made = {n: wilson(n, answers) for n in counts}
    probability = sum(weight[a] * weight[b] for a in counts for b in counts if improves(made[a], made[b]))
    # Newcombe (1998, table III) finds that method 10 misses by at most a point for sizes like these, and less on
    # average: 2.5 % becomes 3.5 % at worst.
    assert probability <= 0.035
    if chance in (0.75, 0.9):  # nor is it far too strict, away from the fold at one half
        assert probability >= 0.01


@pytest.mark.parametrize(("old", "new", "power"), [(0.95, 0.6, 0.99), (0.9, 0.75, 0.55), (0.75, 0.5, 0.65)])
def test_a_true_improvement_is_seen(old, new, power):
    """The exact probability with 64 answers, those of two sets of 32 clouds.

    By the normal law it is 0.999, 0.63 and 0.86. Of the last the fold at one half takes some: a score of 0.55 or 0.45
    may be as bad as 0.67 or 0.33.
    """
    answers = 64
    made = {n: wilson(n, answers) for n in range(answers + 1)}
    weight = [[binom.pmf(n, answers, chance) for n in made] for chance in (old, new)]
    pairs = [(a, b) for a in made for b in made if weight[0][a] * weight[1][b] > 1e-9]
    assert sum(weight[0][a] * weight[1][b] for a, b in pairs if improves(made[a], made[b])) >= power


def test_small_improvements_add_up():
    """Each is within the interval of the one before it, and four of them together are not."""
    plateau, since = Plateau(), []
    for step in range(9):
        plateau.add(step, wilson(96 - 3 * step, 100))
        since.append(plateau.since)
    assert since == [0, 1, 2, 0, 1, 2, 3, 0, 1]


def test_the_other_side_of_one_half_is_as_bad():
    assert improves(scores(0.1, 0.05, 0.15), scores(0.45, 0.4, 0.5))  # copies of the held-out clouds
    assert not improves(scores(0.9, 0.85, 0.95), scores(0.1, 0.05, 0.15))
    assert not improves(scores(0.52, 0.4, 0.64), scores(0.5, 0.4, 0.6))  # nothing can improve on one half


# Within a run


FOUND = [(0.95, 0.9, 1.0), (0.7, 0.6, 0.8), (0.71, 0.6, 0.8), (0.66, 0.55, 0.77), (0.7, 0.6, 0.8), (0.7, 0.6, 0.8)]


SAID = (
    "the validation score has not improved beyond its interval since step 2 (2 validations): "
    "1-NNA 70.0% there, 66.0% (55.0% to 77.0%) now"
)


def test_a_run_says_once_that_it_does_not_improve_and_goes_on(tmp_path):
    run = scripted(tmp_path, FOUND, patience=2)
    with pytest.warns(UserWarning) as said:  # noqa: PT030
        run.run()
    assert [str(one.message) for one in said] == [SAID]
    assert run.step == 6
    assert run.judge.plateau.since == 4


def test_a_resumed_run_knows_since_when(tmp_path):
    run = scripted(tmp_path, FOUND, patience=2)
    run.run(lambda progress: run.stop() if progress.step == 4 and progress.validated is None else None)
    rest = scripted(tmp_path, FOUND, patience=2)
    rest.resume(checkpoint.newest(tmp_path / "checkpoints"))
    assert rest.judge.plateau.since == 1  # the validation of step 4 was cut off
    with pytest.warns(UserWarning) as said:  # noqa: PT030
        rest.run()
    assert [str(one.message) for one in said] == [SAID]


def test_without_patience_nothing_is_said(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scripted(tmp_path, FOUND).run()
        scripted(tmp_path / "more", FOUND, patience=5).run()


@pytest.mark.filterwarnings("ignore:the validation score has not improved")
def test_a_run_ends_where_it_is_flat_if_it_is_asked_to(tmp_path):
    whole, run = (
        scripted(tmp_path / "whole", FOUND, patience=2),
        scripted(tmp_path / "flat", FOUND, patience=2, stop_when_flat=True),
    )
    seen = {}
    whole.run(lambda progress: seen.update({progress.step: {k: v.clone() for k, v in state(whole).items()}}))
    assert run.run().name == "step-00000004"
    assert all(torch.equal(tensor, seen[4][name]) for name, tensor in state(run).items())
    rest = scripted(tmp_path / "flat", FOUND, patience=2, stop_when_flat=True)
    rest.resume(checkpoint.newest(tmp_path / "flat" / "checkpoints"))
    assert rest.run().name == "step-00000004"  # it has ended: nothing is left to do
    assert rest.step == 4


@pytest.mark.parametrize("measure", [None, validation(patience=0)])
def test_to_end_where_it_is_flat_a_run_must_be_validated(tmp_path, measure):
    with pytest.raises(ValueError, match=r"trainer\.stop_when_flat=true needs validations, and validation\.patience"):
        trainer(tmp_path, validation=measure, stop_when_flat=True)


def test_a_run_of_all_defaults_has_enough_validations_to_say_it():
    options = ValidationOptions()
    assert 1 <= options.patience < options.ahead(0, 0.0, None)


def test_what_the_validations_have_shown_is_summed_up(tmp_path):
    run = scripted(tmp_path, FOUND)
    assert run.judge.summary() is None
    run.run()
    assert run.judge.best["step"] == 4
    assert run.judge.summary() == (
        "the best validation is that of step 4, 16.0% off a 1-NNA of 50%; "
        "4 validations since step 2 brought no improvement beyond the interval"
    )


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"validation\.patience must be >= 0, got -1"):
        validation(patience=-1)
