"""Several processes and micro-batches learn what one process learns."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mfcdm import checkpoint
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import Rows, random_subset, standard_normal, uniform
from mfcdm.training.augmentation import Augmentation
from mfcdm.training.batches import Batches, BatchesAhead
from mfcdm.training.options import TrainerOptions
from mfcdm.training.processes import ALONE
from tests.laws import generator, three_shapes
from tests.training.ranks import CUT, STEPS, VARIANTS, build, recorded, weights
from tests.training.runs import LEVELS, SDE, trainer

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("seconds", "_per_second", "time/", "memory/")  # parts of the names of what the clock has a part in


def close(found, expected) -> float:
    """Largest difference of two runs' tensors, each relative to its own size."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name].double() - expected[name].double()).norm() / expected[name].double().norm().clamp_min(1e-12))
        for name in expected
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes leave that train together on this machine's CPU."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.training.ranks", str(folder)]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    return folder


@pytest.fixture(scope="module")
def facts(pair):
    return [json.loads((pair / str(rank) / "facts.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process without micro-batches, by optimizer and precision."""
    found = {}

    def run(name):
        options = {key: value for key, value in VARIANTS[name].items() if key != "accumulate"}
        if (key := tuple(options.items())) not in found:
            found[key] = recorded(tmp_path_factory.mktemp("alone"), **options)
        return found[key]

    return run


# In float64 the order of sums is 1e-16 a step, but Fabric's float32 outputs round the other way once in 1e8 of them. In
# float32 it is 1e-7 a step, of which AdamW's division by a root of squares makes more: 1.5e-5 after 20 steps.
@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_learn_what_one_learns(pair, alone, name):
    expected = weights(alone(name)[0])
    for rank in range(2):
        found = load_file(pair / str(rank) / f"{name}.safetensors")
        assert close(found, expected) < (1e-4 if "float32" in name else 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_all_processes_hold_the_same_weights_and_averages_to_the_last_bit(pair, name):
    first, second = (load_file(pair / str(rank) / f"{name}.safetensors") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_record_is_that_of_the_whole_batch_and_the_scores_are_everybodys(alone, facts):
    run, expected = alone("muon")
    first, second = (each["muon"] for each in facts)
    assert [record["step"] for record in first["records"]] == [record["step"] for record in expected] == [5, 10, 15, 20]
    for found, wanted in zip(first["records"], expected, strict=True):
        assert found.keys() == wanted.keys()
        for name in found:
            if not any(part in name for part in TIMED):
                assert found[name] == pytest.approx(wanted[name], rel=1e-4), name
    assert second["records"] == []
    assert first["best"] == second["best"]
    assert first["best"] == {"step": run.judge.best["step"], "score": pytest.approx(run.judge.best["score"])}


def test_micro_batches_of_one_process_learn_the_same(alone, tmp_path):
    parts = build(tmp_path, accumulate=4, **VARIANTS["muon"])
    parts.run()
    assert close(weights(parts), weights(alone("muon")[0])) < 1e-5


def test_a_stop_of_one_process_stops_both_and_any_number_of_processes_goes_on(pair, facts, alone, tmp_path):
    assert [each["stopped"] for each in facts] == [CUT, CUT]
    run = build(tmp_path, **VARIANTS["muon"])
    run.resume(checkpoint.newest(pair / "stopped" / "checkpoints"))
    assert run.step == CUT
    run.run()
    assert run.step == STEPS
    expected = weights(alone("muon")[0])
    assert close(weights(run), expected) < 1e-5
    assert close(load_file(pair / "0" / "resumed.safetensors"), expected) < 1e-5


def test_the_first_process_clock_bounds_the_run(facts):
    first, second = (each["bounded_by_minutes"] for each in facts)
    assert first == second
    assert first["seconds"] >= 6.0
    assert 0 < first["step"] <= 6  # each look at the clock finds it a second later


def test_a_step_that_one_process_cannot_take_is_refused_by_both(pair, facts):
    for each in facts:
        assert each["refused"]["refused"] == each["refused"]["expected"] > 0
        assert each["refused"]["finite"]
    steps = json.loads((pair / "refused" / "refused.json").read_text())["steps"]
    assert all(2 in step["indices"] and len(step["t"]) == len(step["loss"]) == 8 for step in steps)


def test_an_error_of_one_process_is_that_of_all(facts):
    first, second = (each["full_disk"]["error"] for each in facts)
    assert first == second
    assert "checkpoint of step 2 could not be written" in first
    first, second = (each["failing"] for each in facts)
    assert first == second
    assert first["forward"] == "ValueError: out of luck"
    assert first["draw"].startswith("FloatingPointError: ")
    assert first["both shared"]


# The parts of a batch


@pytest.mark.parametrize("lengths", [None, [16, 9, 12, 16, 10, 11]], ids=["equal", "mixed"])
def test_a_part_of_a_batch_draws_its_rows_of_the_whole(lengths):
    """To the last bit: levels, subsets, times, noise, hidden labels and directions."""
    objective = MeanFieldScoreMatching(SDE, LEVELS, jacobian_weight=1.0, label_dropout=0.5)
    x = three_shapes().sample(6, 16, generator(0), dtype=torch.float32)
    lengths = None if lengths is None else torch.tensor(lengths)
    label = torch.arange(6) % 3
    seen = []

    class Network(torch.nn.Module):
        prediction, num_classes = "v", 3

        def forward(self, x, t, lengths=None, label=None):
            seen.append((x, label))
            return torch.zeros_like(x)

    for seed in range(6):
        g = generator(seed)
        whole = objective.draw(x, lengths, g)
        objective.loss(Network(), whole, label, g)
        for first, size in ((0, 2), (2, 3), (5, 1)):
            rows, own = Rows(generator(seed), first, size, 6), slice(first, first + size)
            part = objective.draw(x[own], None if lengths is None else lengths[own], rows)
            objective.loss(Network(), part, label[own], rows)
            for name, value in vars(part).items():
                expected = vars(whole[own])[name]
                assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, name
            for (x_part, label_part), (x_whole, label_whole) in zip(seen[3:], seen[:3], strict=True):
                assert torch.equal(x_part, x_whole[own])
                assert torch.equal(label_part, label_whole[own])
            del seen[3:]
        seen.clear()


def test_rows_are_those_of_the_whole():
    for draw in (standard_normal, uniform):
        whole = draw((7, 5, 3), generator(0))
        assert torch.equal(draw((3, 5, 3), Rows(generator(0), 2, 3, 7)), whole[2:5])
    assert torch.equal(random_subset(4, 3, 9, Rows(generator(0), 2, 3, 7)), random_subset(4, 7, 9, generator(0))[2:5])
    with pytest.raises(ValueError, match="3 clouds from place 5 on are not in a batch of 7"):
        Rows(generator(0), 5, 3, 7)


@pytest.mark.parametrize("kind", [Batches, BatchesAhead])
@pytest.mark.parametrize("options", [{}, {"max_points": 10}, {"augmentation": Augmentation(90.0, jitter=0.1)}])
def test_the_parts_of_a_batch_are_the_batch(kind, options):
    clouds = Clouds(three_shapes().sample(5, 16, generator(0), dtype=torch.float32), torch.tensor([16, 9, 12, 16, 10]))
    whole = Batches(clouds, 6, 3, **options)
    parts = [kind(clouds, 6, 3, **options, part=(k, 3)) for k in range(3)]
    for step in range(3):
        found = [part.at(step) for part in parts]
        assert torch.equal(torch.cat([each.x for each in found]), whole.at(step).x)
        assert torch.equal(torch.cat([each.lengths for each in found]), whole.at(step).lengths)
        assert all(torch.equal(part.indices(step), whole.indices(step)) for part in parts)


# One process, and options


def test_one_process_is_a_case_of_many():
    with pytest.raises(KeyError), ALONE.together():
        raise KeyError
    assert (ALONE.any(True), ALONE.any(False), ALONE.number_of_first(0.1), ALONE.least(3)) == (True, False, 0.1, 3)
    assert ALONE.objects("a") == ["a"]
    assert ALONE.by_first(lambda: 5) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"devices": 3},
            "trainer.batch_size=16 must be a multiple of trainer.devices=3 times trainer.num_nodes=1 times",
        ),
        ({"devices": 2, "num_nodes": 2, "accumulate": 8}, r"trainer\.num_nodes=2 times trainer\.accumulate=8"),
        ({"devices": 0}, "trainer.devices must be a whole number >= 1, got 0"),
        ({"accumulate": 1.5}, "trainer.accumulate must be a whole number >= 1, got 1.5"),
    ],
)
def test_shares_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainerOptions(max_steps=1, **options)


def test_a_compiled_network_keeps_its_names_and_learns_the_same(tmp_path, monkeypatch):
    """Compiled by a backend that computes as torch does: what is traced is the network itself."""
    torch.compiler.reset()  # graphs that other tests' networks have left
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, traced = trainer(tmp_path / "plain", max_steps=2), trainer(tmp_path / "traced", max_steps=2, compile=True)
    plain.run()
    last = traced.run()
    assert graphs
    assert checkpoint.load(last).network.state_dict().keys() == plain.raw.state_dict().keys()
    assert close(traced.raw.state_dict(), plain.raw.state_dict()) < 1e-5  # sums of float32 in another order
