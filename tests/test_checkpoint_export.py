"""Checkpoints that travel: one file and a card, read as a folder is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mfcdm import checkpoint
from mfcdm.branching import Learned
from mfcdm.checkpoint_export import export, model_card
from mfcdm.commands import export as command
from mfcdm.generate import generate
from mfcdm.samplers import Geometric
from tests.test_checkpoint import CONFIG, NORMALIZATION, network, save

LEARNED = {"_target_": "mfcdm.branching.Learned", "width": 8, "depth": 1, "num_moments": 2}
DATA = {"_target_": "mfcdm.datasets.CloudArchive", "path": "/srv/secret/mugs|x.npz", "split": "train"}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in a run, with a learned branching and weights of several types."""
    torch.manual_seed(1)
    rule = Learned(**{key: value for key, value in LEARNED.items() if key != "_target_"})
    weights = network().state_dict() | {"out.bias": torch.tensor([0.1, 1e-30, 7.0], dtype=torch.float64)}
    config = {**CONFIG, "branching": LEARNED, "dataset": DATA, "name": "mugs"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"device": "a device", "threads": 2}))
    where = tmp_path / "run" / "checkpoints" / "step-00000007"
    return save(where, weights=weights, config=config, branching=rule.state_dict())


@pytest.fixture
def file(folder, tmp_path):
    return export(folder, tmp_path / "given" / "mugs.safetensors")


def drawn(model):
    rest = {"num_clouds": 2, "num_particles": 64, "seed": 3}
    return generate(model.network, model.sde, Geometric(num_steps=6), model.subdivision, model.branching, **rest)


def test_round_trip_to_the_last_bit(folder, file):
    tensors = load_file(file)
    for prefix, name in (("network.", "network"), ("branching.", "branching")):
        own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        there = load_file(folder / f"{name}.safetensors")
        assert own.keys() == there.keys()
        assert all(own[key].dtype == x.dtype and torch.equal(own[key], x) for key, x in there.items())
    assert {key.partition(".")[0] for key in tensors} == {"network", "branching"}
    one, other = checkpoint.load(folder), checkpoint.load(file)
    assert (one.config, one.step, one.categories, one.subdivision) == (
        other.config,
        other.step,
        other.categories,
        other.subdivision,
    )
    assert all(map(torch.equal, one.normalization, other.normalization))
    assert torch.equal(one.normalization.mean, NORMALIZATION.mean)
    assert torch.equal(drawn(one), drawn(other))


def test_header_is_what_the_format_says(file):
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["mfcdm"])
    assert list(about) == ["format_version", "step", "mean", "std", "categories", "config"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_exporting_an_export_changes_nothing(file, tmp_path):
    assert export(file, tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def rewritten(file, change):
    """The file with its tensors and header changed by change(tensors, about)."""
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["mfcdm"])
    tensors = load_file(file)
    text = change(tensors, about)
    save_file(tensors, file, metadata={"mfcdm": json.dumps(about) if text is None else text})


DAMAGES = {
    "is damaged": lambda tensors, about: '{"step": 1',
    "holds NaN": lambda tensors, about: tensors.update({"network.out.bias": torch.full((3,), torch.nan)}),
    "do not fit": lambda tensors, about: about["config"]["network"].update(width=2**24),
    "more than": lambda tensors, about: about["config"]["network"].update(depth=10**9),
    "more than 10": lambda tensors, about: about["config"]["branching"].update(depth=10**9),
    "format_version 9": lambda tensors, about: about.update(format_version=9),
    "lacks sde": lambda tensors, about: about["config"].pop("sde") and None,
    "std is 0": lambda tensors, about: about.update(std=0),
    "mean is": lambda tensors, about: about.update(mean=[0.0]),
    "more than 64 bits": lambda tensors, about: about.update(step=10**30),
    "'other.a'": lambda tensors, about: tensors.update({"other.a": torch.zeros(1)}),
    "32 deep": lambda tensors, about: '{"a":' + "[" * 500 + "]" * 500 + "}",
    "RecursionError": lambda tensors, about: "[" * 100000,
    "os.system": lambda tensors, about: about["config"].update(sde={"_target_": "os.system", "command": "true"}),
    "no tensors branching": lambda tensors, about: (
        [tensors.pop(key) for key in list(tensors) if key[0] == "b"] and None
    ),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_damage_is_refused_as_in_a_folder(file, sentence):
    rewritten(file, DAMAGES[sentence])
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        checkpoint.load(file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_without_our_header_and_one_cut_off_are_refused(folder, file):
    with pytest.raises(ValueError, match="not an exported checkpoint"):
        checkpoint.load(folder / "network.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        checkpoint.load(file)
    with pytest.raises(FileNotFoundError, match="neither a checkpoint folder nor a file"):
        checkpoint.load(file.with_name("absent.safetensors"))


def test_names_in_yaml_cannot_multiply(folder):
    """a, then b of ten times a, ...: a few hundred characters that stand for 10^30."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    lines = ["l0: &l0 [x]"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]" for k in range(1, 31)]
    path.write_text(yaml.safe_dump(config) + "\n".join(lines))
    with pytest.raises(ValueError, match=r"config\.yaml is damaged: it holds more than"):
        checkpoint.load(folder)


def test_what_json_cannot_hold_and_other_endings_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        export(folder, tmp_path / "mugs.pt")
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + "when: 2026-01-01\n")
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        export(folder, tmp_path / "mugs.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_accident_leaves_the_old_file(file, folder, monkeypatch):
    old = file.read_bytes()

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mfcdm.checkpoint_export.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        export(folder, file)
    assert file.read_bytes() == old
    assert [path.name for path in file.parent.iterdir()] == [file.name]


SCORE = {"value": 0.547, "low": 0.438, "high": 0.652, "floor_low": 0.4, "floor_high": 0.6, "best": 0.5}
PROTOCOL = {"name": "mfcdm", "num_points": 2048, "split": "val", "normalization": "none", "seed": 0}


def test_card_says_what_the_checkpoint_and_the_report_say(folder, tmp_path):
    report = tmp_path / "report.json"
    text = {"protocol": PROTOCOL, "sizes": {"clouds": 64}, "scores": {"1nna-cd": SCORE}, "notes": ["a | note"]}
    report.write_text(json.dumps(text))
    card = model_card(folder, report)
    size = sum(x.numel() for x in network().parameters())
    for part in (
        "# mugs",
        "CloudArchive, mugs&#124;x.npz, split train",
        "7 steps, 0.0 minutes",
        "a device, 2 threads",
        f"ScoreNetwork, {size:,} parameters",
        "16, 32, 64",
        "| 1nna-cd | 54.7 % | 43.8 % to 65.2 % | 40.0 % to 60.0 % | 50.0 % |",
        "Protocol mfcdm: 64 against 64 clouds of 2048 points at most, split val",
    ):
        assert part in card
    assert "/srv" not in card  # whoever gets the card has nothing to do with the folders of who made it
    assert "It comes without scores" in model_card(folder)
    report.write_text("{}")
    with pytest.raises(ValueError, match="is not a report"):
        model_card(folder, report)


def test_command_writes_the_file_and_its_card(folder, tmp_path):
    file = tmp_path / "out" / "mugs.safetensors"
    command.main([str(folder), str(file)])
    assert checkpoint.load(file).step == 7
    card = file.with_suffix(".md")
    assert f"checkpoint={file.name}" in card.read_text()
    card.write_text("mine")
    command.main([str(folder), str(file)])
    assert card.read_text() == "mine"


@pytest.mark.parametrize("wrong", ["absent", "ending", "report", "options"])
def test_a_mistake_ends_in_one_sentence(folder, tmp_path, capsys, wrong):
    file = tmp_path / ("a.pt" if wrong == "ending" else "a.safetensors")
    source = tmp_path / "absent" if wrong == "absent" else folder
    more = {"report": ["--scores", str(tmp_path / "none.json")], "options": ["--what"]}.get(wrong, [])
    with pytest.raises(SystemExit) as ended:
        command.main([str(source), str(file), *more])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert not file.exists()
    assert not file.with_suffix(".md").exists()


def test_sample_takes_the_file(folder, file, tmp_path):
    root, runs = Path(__file__).resolve().parents[1], []
    for source in (folder, file):
        output = tmp_path / f"drawn-{source.name}"
        options = ["num_clouds=2", "num_particles=64", "sampler=geometric", "sampler.num_steps=6", f"output={output}"]
        command = [sys.executable, str(root / "sample.py"), f"checkpoint={source}", *options]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        runs.append((output / "samples.npz").read_bytes())
    assert runs[0] == runs[1]
