"""A learned branching beside the score network: trained, saved, resumed, drawn with."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mfcdm import checkpoint
from mfcdm.branching import Learned, Renoise
from mfcdm.datasets import Clouds
from mfcdm.generate import generate
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Langevin
from mfcdm.subdivision import Subdivision
from mfcdm.training.artifacts import check_folder, kept_files
from mfcdm.training.batches import Batches
from mfcdm.training.branching import EVERY
from mfcdm.training.engine import Trainer
from mfcdm.training.loggers import JsonLines
from mfcdm.training.options import TrainerOptions
from mfcdm.training.refusals import MAX_REFUSED
from mfcdm.training.validation import Validation, ValidationOptions
from tests.laws import generator, three_shapes
from tests.training.runs import CONFIG, LEVELS, NETWORK, SDE, UNCHANGED, state

OPTIONS = {"width": 8, "depth": 1, "num_moments": 2, "num_scales": 2, "push": 0.7}
NAME = "branching.safetensors"


def trainer(folder: Path, rule="learned", levels=LEVELS, num_points=16, lengths=None, loggers=(), **options) -> Trainer:
    """A run of six steps, two of which also move the branching."""
    torch.manual_seed(0)
    network = ScoreNetwork(**NETWORK)
    rule = Learned(**OPTIONS) if rule == "learned" else rule
    x = three_shapes().sample(12, num_points, generator(0), dtype=torch.float32)
    options = TrainerOptions(**{"max_steps": 6, "batch_size": 4, "warmup_steps": 2, "accelerator": "cpu", **options})
    target = {"_target_": "mfcdm.branching.Learned", **OPTIONS}
    held_out = Clouds(three_shapes().sample(6, 16, generator(7), dtype=torch.float32))
    how = ValidationOptions(every=0.5, num_clouds=6, num_steps=3)
    return Trainer(
        network,
        MeanFieldScoreMatching(SDE, levels, push=0.7),
        Batches(Clouds(x, lengths), options.batch_size, 0),
        UNCHANGED,
        options,
        CONFIG | ({"branching": target} if isinstance(rule, Learned) else {}),
        folder,
        loggers=loggers,
        validation=Validation(held_out, UNCHANGED, SDE, Langevin(), LEVELS, rule, how),
        branching=rule,
    )


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def whole_state(run):
    averaged = {f"averaged.{name}": tensor for name, tensor in run.branching.weights().items()}
    return state(run) | run.branching.tensors() | averaged


@pytest.fixture
def folder(tmp_path):
    """The last checkpoint of a run."""
    return trainer(tmp_path / "run").run()


def test_the_network_learns_the_same_to_the_last_bit_with_and_without_a_learned_branching(tmp_path):
    learned, plain = trainer(tmp_path / "a"), trainer(tmp_path / "b", Renoise(0.7))
    learned.run()
    last = plain.run()
    assert equal(state(learned), state(plain))
    assert not (last / NAME).exists()
    assert not [name for name in load_file(last / "training.safetensors") if "branching" in name]


def test_a_run_trains_the_branching_and_records_its_energy(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        run = trainer(tmp_path, loggers=[log], log_every=1)
        first = {name: weight.clone() for name, weight in run.branching.tensors().items()}
        run.run()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in found if "branching/energy" in record] == [1, 1 + EVERY]
    assert all(math.isfinite(record.get("branching/energy", 0.0)) for record in found)
    now = run.branching.tensors()
    assert all(not torch.equal(first[name], now[name]) for name in first if name.endswith("weight"))


def test_whoever_holds_the_rule_draws_with_its_averaged_weights(tmp_path):
    run = trainer(tmp_path)
    rule = run.judge.validation.branching
    last = run.run()
    averaged, current = load_file(last / NAME), run.branching.raw.state_dict()
    assert equal(rule.state_dict(), averaged)
    assert not equal(averaged, current)
    model = checkpoint.load(last)
    assert isinstance(model.branching, Learned)
    assert equal(model.branching.state_dict(), averaged)
    assert not model.branching.training
    assert model.branching.renoise == Renoise(0.7)
    parts = SDE, Langevin(num_steps=4), LEVELS
    ours, theirs = (
        generate(model.network, *parts, each, num_clouds=2, num_particles=19) for each in (rule, model.branching)
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, generate(model.network, *parts, Renoise(0.7), num_clouds=2, num_particles=19))


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path, stop):
    whole = trainer(tmp_path / "whole")
    whole.run()
    cut = trainer(tmp_path / "cut")
    cut.run(lambda progress: cut.stop() if progress.step == stop else None)
    rest = trainer(tmp_path / "cut")
    rest.resume(checkpoint.newest(tmp_path / "cut" / "checkpoints"))
    assert rest.step == stop
    rest.run()
    assert equal(whole_state(whole), whole_state(rest))
    assert rest.branching.numbers() == whole.branching.numbers() == {"updates": 2, "refused": 0, "in_a_row": 0}
    assert rest.judge.best == whole.judge.best  # the resumed one draws with the same averages


def test_clouds_of_different_lengths_never_lend_their_padding(tmp_path):
    lengths = torch.tensor([16, 12, 14] * 4)
    run = trainer(tmp_path, num_points=20, lengths=lengths)
    clouds = run.batches.clouds
    own = torch.arange(20) < lengths[:, None]
    clouds.x.copy_(torch.where(own[..., None], clouds.x, torch.nan))
    energy = run.branching.energy(clouds, generator(0))
    assert bool(energy.isfinite())


# Steps that are not finite


def poisoned(run, steps):
    """Have the branching make NaN in these of its turns, counted from 1."""
    turns = iter(range(1, 10**6))
    run.branching.raw.register_forward_hook(lambda _, __, made: made * math.nan if next(turns) in steps else None)
    return run


def test_a_step_that_turns_non_finite_moves_nothing_and_is_counted(tmp_path):
    run = poisoned(trainer(tmp_path), {1})
    with pytest.warns(UserWarning, match="step 1 skipped for the branching: a non-finite loss or gradient"):
        run.run()
    assert run.branching.numbers() == {"updates": 1, "refused": 1, "in_a_row": 0}
    assert all(bool(weight.isfinite().all()) for weight in run.branching.tensors().values())


@pytest.mark.filterwarnings("ignore:step 1 skipped")
def test_a_branching_that_never_becomes_finite_ends_the_run(tmp_path):
    run = poisoned(trainer(tmp_path, max_steps=1000, checkpoint_every=10**6), range(10**6))
    run.judge.validation = None
    last = EVERY * (MAX_REFUSED - 1) + 1
    with pytest.raises(FloatingPointError, match=rf"{MAX_REFUSED} steps in a row .* at step {last}; lower"):
        run.run()


# Files


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def poison(path):
    tensors = load_file(path)
    tensors["out.bias"][0] = torch.nan
    save_file(tensors, path)


@pytest.mark.parametrize("damage", [cut, poison, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_named(folder, damage):
    damage(folder / NAME)
    with pytest.raises(ValueError, match=rf"^{folder / NAME} is damaged: "):
        checkpoint.load(folder)


@pytest.mark.parametrize("change", [{"out.bias": torch.zeros(99)}, {"foreign": torch.zeros(1)}, {"out.bias": None}])
def test_weights_that_do_not_fit_are_refused(folder, change):
    weights = {name: value for name, value in {**load_file(folder / NAME), **change}.items() if value is not None}
    save_file(weights, folder / NAME)
    with pytest.raises(ValueError, match=rf"the weights in {folder / NAME} do not fit its configuration: "):
        checkpoint.load(folder)


def test_a_hostile_width_is_refused_before_it_takes_memory(folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 40000000"))  # 6 TB a matrix
    with pytest.raises(ValueError, match="do not fit its configuration"):
        checkpoint.load(folder)


def test_a_missing_file_is_named_and_the_checkpoint_left_out(folder):
    assert checkpoint.fault(folder) is None
    cut(folder / NAME)
    assert checkpoint.fault(folder).startswith(f"{NAME}: ")
    (folder / NAME).unlink()
    assert checkpoint.fault(folder).startswith(f"{NAME}: ")
    assert checkpoint.newest(folder.parent) != folder
    with pytest.raises(FileNotFoundError, match=f"{folder} is not a whole checkpoint: it has no {NAME}"):
        checkpoint.load(folder)


def test_a_checkpoint_of_an_earlier_version_loads(tmp_path):
    last = trainer(tmp_path, Renoise(1.4)).run()
    path = last / "state.json"
    numbers = json.loads(path.read_text())
    del numbers["branching"], numbers["training"]["branching"]
    path.write_text(json.dumps(numbers))
    assert checkpoint.fault(last) is None
    assert checkpoint.load(last).branching == Renoise(1.4)
    run = trainer(tmp_path, Renoise(1.4))
    run.resume(last)
    assert run.step == 6


def test_the_file_goes_with_the_model_where_there_is_one(folder, tmp_path):
    kept = tmp_path / "kept"
    assert NAME in [path.name for path in kept_files(folder, kept)]
    check_folder("model", kept)
    assert isinstance(checkpoint.load(kept).branching, Learned)
    (kept / NAME).unlink()
    check_folder("model", kept)  # that of a model without one
    shutil.rmtree(kept)


# Refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"levels": Subdivision([16], [1.0])}, "nothing to learn: no level has more particles .* branching=renoise"),
        ({"levels": Subdivision([15, 16], [1.0, 0.4])}, "cloud 0 has 16 points, and 17 are needed"),
        ({"rule": Learned(dim=2)}, "the clouds have dimension 3, the branching 2"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, **options)
