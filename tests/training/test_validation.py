import json
import math

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.branching import Renoise
from mfcdm.datasets import Clouds, Normalization
from mfcdm.generate import generate
from mfcdm.metrics import chamfer_distance
from mfcdm.networks import ScoreNetwork
from mfcdm.samplers import Langevin
from mfcdm.training.loggers import JsonLines
from mfcdm.training.options import TrainerOptions
from mfcdm.training.validation import GENERATION, Scores, Validation, ValidationOptions, held_out
from tests.laws import generator, three_shapes
from tests.training.runs import LEVELS, NETWORK, SDE, Exact, state, trainer, validation


class ExactNetwork(torch.nn.Module):
    """The law's own score as a network."""

    prediction, dim = "v", 3

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, lengths=None, label=None):
        return Exact()(x, t)


class Recorder:
    """A logger that remembers what it is told."""

    def __init__(self):
        self.logged, self.shown, self.kept = [], [], []

    def log(self, step, values):
        self.logged.append((step, dict(values)))

    def clouds(self, step, name, clouds, picture):
        self.shown.append((step, name, clouds, picture))

    def checkpoint(self, folder, aliases):
        assert checkpoint.load(folder).step == int(folder.name[-8:])  # it is whole when it is announced
        self.kept.append((folder.name, tuple(aliases)))

    def close(self, failed=False):
        pass


def tiny():
    torch.manual_seed(0)
    return ScoreNetwork(**NETWORK)


# Scores


def test_scores_are_those_of_the_definition_in_the_data_coordinates():
    normalization = Normalization(torch.tensor([3.0, -1.0, 0.5]), torch.tensor(2.5))
    clouds = Clouds(normalization.undo(three_shapes().sample(5, 16, generator(7), dtype=torch.float32)))
    measure = Validation(clouds, normalization, SDE, Langevin(), LEVELS, Renoise(1.4), ValidationOptions(num_clouds=5))
    scores = measure(tiny())
    sampler = Langevin(num_steps=ValidationOptions().num_steps)
    x = generate(tiny(), SDE, sampler, LEVELS, Renoise(1.4), num_clouds=5, num_particles=16, stream=GENERATION)
    torch.testing.assert_close(scores.clouds, normalization.undo(x))
    both = torch.cat([scores.clouds, clouds.x])
    d = torch.stack([chamfer_distance(cloud[None].expand_as(both), both) for cloud in both]).fill_diagonal_(math.inf)
    own = (d.argmin(dim=1) < 5) == (torch.arange(10) < 5)
    assert scores.values["validation/1nna-cd"] == pytest.approx(float(own.float().mean()))
    assert scores.error == scores.values["validation/error"] == abs(scores.values["validation/1nna-cd"] - 0.5)
    assert scores.values["validation/mmd-cd"] == pytest.approx(float(d[:5, 5:].amin(dim=0).mean()), rel=1e-5)
    covered = len(set(d[:5, 5:].argmin(dim=1).tolist())) / 5
    assert scores.values["validation/cov-cd"] == pytest.approx(covered)
    assert scores.values["validation/num_clouds"] == 5
    low, high = (scores.values[f"validation/1nna-cd/{end}"] for end in ("low", "high"))
    assert 0 <= low <= scores.values["validation/1nna-cd"] <= high <= 1


def test_the_exact_score_is_told_from_an_untrained_network():
    clouds = Clouds(three_shapes().sample(24, 16, generator(7), dtype=torch.float32))
    options = ValidationOptions(num_clouds=24, num_steps=100)
    measure = Validation(clouds, Normalization(torch.zeros(3), torch.tensor(1.0)), SDE, Langevin(), LEVELS,
                         Renoise(2.1), options)  # fmt: skip
    good, bad = measure(ExactNetwork()), measure(tiny())
    # Two samples of one law of 24 clouds scatter about 0.49 by 0.07 to 0.09: three standard deviations.
    assert good.error < 0.27
    assert bad.values["validation/1nna-cd"] > 0.8
    assert good.values["validation/mmd-cd"] < bad.values["validation/mmd-cd"]


def test_a_score_is_a_function_of_the_network_alone():
    first, again = validation()(tiny()), validation()(tiny())
    assert torch.equal(first.clouds, again.clouds)
    timeless = [{k: v for k, v in s.values.items() if "seconds" not in k} for s in (first, again)]
    assert timeless[0] == timeless[1]
    before = torch.get_rng_state()
    validation()(tiny_and_restore(before))
    assert torch.equal(torch.get_rng_state(), before)


def tiny_and_restore(rng):
    network = tiny()
    torch.set_rng_state(rng)
    return network


def test_points_of_held_out_clouds_are_random_subsets_of_their_own():
    x = torch.arange(4 * 40 * 3, dtype=torch.float32).view(4, 40, 3)
    clouds = Clouds(x, torch.tensor([40, 16, 30, 20]))
    unchanged = Normalization(torch.zeros(3), torch.tensor(1.0))

    def make(seed):
        options = ValidationOptions(num_clouds=4)
        return Validation(clouds, unchanged, SDE, Langevin(), LEVELS, Renoise(), options, seed).reference

    reference = make(0)
    assert reference.shape == (4, 16, 3)
    for cloud, whole in zip(reference, clouds.points(), strict=True):
        rows = {tuple(point) for point in cloud.tolist()}
        assert len(rows) == 16  # without replacement
        assert rows <= {tuple(point) for point in whole.tolist()}
    assert torch.equal(reference, make(0))
    assert not torch.equal(reference, make(1))


def test_held_out_clouds_are_drawn_by_seed_without_replacement():
    items = [{"x": torch.full((2, 3), float(index)), "label": index % 2} for index in range(20)]
    chosen = held_out(items, 8, seed=0)
    names = chosen.x[:, 0, 0].tolist()
    assert len(set(names)) == 8
    assert chosen.labels.tolist() == [int(name) % 2 for name in names]
    assert names == held_out(items, 8, seed=0).x[:, 0, 0].tolist() != held_out(items, 8, seed=1).x[:, 0, 0].tolist()
    assert len(held_out(items, 99, seed=0)) == 20


# When


@pytest.mark.parametrize(
    ("every", "max_steps", "expected"),
    [
        (0.2, 50, [10, 20, 30, 40, 50]),
        (0.2, 7, [2, 3, 5, 6, 7]),
        (0.3, 10, [3, 6, 9, 10]),
        (0.1, 10, list(range(1, 11))),
        (0.5, 1, [1]),
        (20, 50, [20, 40, 50]),
        (1, 3, [1, 2, 3]),
        (100, 3, [3]),
    ],
)
def test_validations_fall_where_the_key_says(every, max_steps, expected):
    options, run = ValidationOptions(every=every), TrainerOptions(max_steps=max_steps)
    shares = [run.share(step, 0.0) for step in range(max_steps + 1)]
    assert [n for n in range(1, max_steps + 1) if options.due(n, shares[n - 1], shares[n])] == expected


# Within a run


def test_training_is_bit_equal_with_and_without_validation(tmp_path):
    without = trainer(tmp_path / "without")
    without.run()
    torch.rand(3)  # another state of the global generator
    with_it = trainer(tmp_path / "with", validation=validation(every=1))
    with_it.run()
    a, b = state(without), state(with_it)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_validation_scores_averaged_weights_and_is_recorded_shown_and_kept(tmp_path):
    logger, seen = Recorder(), []
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        run = trainer(tmp_path, validation=validation(), loggers=[log, logger], log_every=2, checkpoint_every=2)
        run.run(lambda progress: seen.append((progress.step, progress.validated)))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 3, 4, 6]
    assert [step for step, values in logger.logged] == [2, 3, 4, 6]
    assert ["validation/1nna-cd" in record for record in records] == [False, True, False, True]
    assert ["loss" in record for record in records] == [True, False, True, True]
    expected = validation()(run.averaged())
    assert records[-1]["validation/mmd-cd"] == expected.values["validation/mmd-cd"]
    assert [(step, name) for step, name, _, _ in logger.shown] == [(3, "samples"), (6, "samples")]
    assert torch.equal(torch.stack(logger.shown[-1][2]), expected.clouds)
    for step, _, _, picture in logger.shown:
        assert picture == tmp_path / "samples" / f"step-{step:08d}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    names = ["step-00000002", "step-00000003", "step-00000004", "step-00000006"]
    assert [name for name, _ in logger.kept] == names
    assert [aliases[0] for _, aliases in logger.kept] == ["latest"] * 4
    # the step, then the three steps of the sampler
    assert [validated for step, validated in seen if step == 3] == [None, 1 / 3, 2 / 3, 1.0]


def test_the_best_is_the_nearest_to_one_half_and_of_equals_the_newer(tmp_path):
    found = iter([0.9, 0.4, 0.3, 0.6, 1.0, 0.75])  # errors .4 .1 .2 .1 .5 .25
    measure, logger = validation(every=1), Recorder()

    class Scripted:
        options, draw = measure.options, measure.draw

        def __call__(self, network, progress=None):
            scores = measure(network)
            return Scores({**scores.values, "validation/1nna-cd": next(found)}, scores.clouds)

    run = trainer(tmp_path, validation=Scripted(), loggers=[logger])
    run.run()
    assert [step for step, (_, aliases) in enumerate(logger.kept, 1) if "best" in aliases] == [1, 2, 4]
    assert run.judge.best == {"step": 4, "score": pytest.approx(0.1)}
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-00000004"
    assert checkpoint.load_training(tmp_path / "checkpoints" / "last").numbers["best"] == run.judge.best


def test_a_run_bounded_by_minutes_spends_a_twentieth_of_its_time_on_validations(tmp_path):
    run = trainer(tmp_path, validation=validation(every=0.1), max_steps=None, max_minutes=10)

    def due(share: float) -> bool:
        run.seconds = 600 * share
        return run.judge.due(run.step, share - 0.01, share, run.seconds)

    run.judge.durations = []
    assert due(0.1)  # nothing is known yet
    run.judge.durations = [6.0]
    assert not due(0.2)  # 6 + 6 of 120 seconds: a tenth
    assert not due(0.35)  # not at any other time either
    assert due(0.4)  # 12 of 240
    run.judge.durations = [6.0, 100.0]
    assert not due(0.9)
    assert due(1.0)  # the end always counts
    run.judge.validation = validation(every=7)
    run.step = 14
    assert due(0.5)  # steps are what the user asked for
    steps = trainer(tmp_path, validation=validation(every=0.1), max_steps=10)
    steps.judge.durations = [1e6]
    assert steps.judge.due(3, 0.2, 0.3, 0.0)  # a run bounded by steps is deterministic


def test_a_validation_that_fails_is_said_and_does_not_end_the_run(tmp_path):
    measure = validation()

    def overflowing(network, progress=None):
        raise FloatingPointError("non-finite particles")

    overflowing.options, logger = measure.options, Recorder()
    run = trainer(tmp_path, validation=overflowing, loggers=[logger])
    with pytest.warns(UserWarning, match="the validation at step [36] failed: non-finite particles"):
        run.run()
    assert [step for step, values in logger.logged if values.get("validation/failed")] == [3, 6]
    assert run.judge.best is None
    assert not (tmp_path / "checkpoints" / "best").exists()


# What does not fit


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0.0}, r"validation\.every must be a share .*, got 0\.0"),
        ({"every": 2.5}, r"validation\.every must be a share .*, got 2\.5"),
        ({"every": math.inf}, r"validation\.every"),
        ({"every": math.nan}, r"validation\.every"),
        ({"num_clouds": 3}, r"validation\.num_clouds must be 0 or at least 4, got 3"),
        ({"num_clouds": -1}, r"validation\.num_clouds must be 0 or at least 4, got -1"),
        ({"num_steps": 0}, r"validation\.num_steps must be >= 1, got 0"),
        ({"num_steps": 1}, r"validation\.num_steps=1 is too few for 2 levels"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        validation(**options)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((3, 16, 3), "at least 4 held-out clouds, got 3"), ((4, 15, 3), "held-out cloud 0 has 15 points, .* has 16")],
)
def test_clouds_that_do_not_fit_are_refused(shape, sentence):
    unchanged = Normalization(torch.zeros(3), torch.tensor(1.0))
    with pytest.raises(ValueError, match=sentence):
        Validation(Clouds(torch.randn(shape)), unchanged, SDE, Langevin(), LEVELS, Renoise(), ValidationOptions())
