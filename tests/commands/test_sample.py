import shutil
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.image import imread as read_png

from mfcdm import checkpoint
from mfcdm.commands.data import clouds_to_show
from mfcdm.commands.drawing import draw
from mfcdm.datasets import ParametricShapes
from mfcdm.generate import generate
from mfcdm.samplers import Langevin
from tests.commands.runs import ONE_STEP, PNG, clouds, points


def test_sample_script(run, script, tmp_path):
    ended = script(
        "sample.py",
        f"checkpoint={run / 'checkpoints' / 'last'}",
        "num_clouds=3",
        "num_particles=100",
        "sampler=geometric",
        "sampler.num_steps=6",
        "output=drawn",
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err
    x = points(tmp_path / "drawn")
    assert x.shape == (3, 100, 3)
    assert np.isfinite(x).all()
    assert (tmp_path / "drawn" / "samples.png").read_bytes().startswith(PNG)


def test_the_folder_of_a_run_names_its_newest_checkpoint(run, call):
    ended = call("sample", f"checkpoint={run}")
    assert ended.code == 2
    assert f"{run} is the folder of a run; its newest checkpoint is {run / 'checkpoints' / 'last'}" in ended.sentence


def test_cloud_depends_on_seed_and_index_alone(run, call, tmp_path):
    def drawn(name, *options):
        ended = call("sample", f"checkpoint={run}/checkpoints/last", "sampler.num_steps=6", f"output={name}", *options)
        assert ended.code == 0, ended.err
        return points(tmp_path / name)

    together = drawn("together", "num_clouds=3", "batch_size=3")
    alone = drawn("alone", "num_clouds=2", "batch_size=1")
    # Sums round differently in another batch, by 1e-7 in float32; x_0 = (x - sigma noise) / alpha makes that 150 times
    # as much at t = 1, and several evaluations add up.
    np.testing.assert_allclose(alone, together[:2], rtol=0, atol=1e-3 * together.std())
    other = drawn("other", "num_clouds=3", "seed=1")
    assert np.abs(other - together).mean() > 0.1 * together.std()


def test_cloud_depends_on_seed_and_index_alone_in_double_precision(run):
    model = checkpoint.load(run / "checkpoints" / "last")
    model.network.double()
    together = draw(model, Langevin(num_steps=6), num_clouds=3, num_particles=[100], seed=0, batch_size=3)
    alone = draw(model, Langevin(num_steps=6), num_clouds=2, num_particles=[100], seed=0, batch_size=1)
    torch.testing.assert_close(
        torch.stack(alone), torch.stack(together[:2]), rtol=0, atol=1e-10
    )  # 1e-16 an operation, amplified as above


def test_a_compiled_network_draws_the_same_clouds(run, call, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, then computed as ever
    arguments = (f"checkpoint={run}/checkpoints/last", "sampler.num_steps=6", "num_clouds=2")
    for name, options in (("plain", ()), ("traced", ("compile=true",))):
        ended = call("sample", *arguments, f"output={name}", *options)
        assert ended.code == 0, ended.err
        assert "warning" not in ended.err
    plain, traced = points(tmp_path / "plain"), points(tmp_path / "traced")
    np.testing.assert_allclose(traced, plain, rtol=0, atol=1e-3 * plain.std())  # rounding, as above


def test_clouds_of_several_cardinalities_take_turns(run, call, tmp_path):
    arguments = (f"checkpoint={run}/checkpoints/last", "sampler.num_steps=6", "output=drawn", "num_clouds=5")
    ended = call("sample", *arguments, "num_particles=[16,100,64]")
    assert ended.code == 0, ended.err
    assert "5 clouds of 16, 100, 64 points" in ended.err
    with np.load(tmp_path / "drawn" / "samples.npz") as samples:
        x, lengths = samples["points"], samples["lengths"]
    assert x.shape == (5, 100, 3)
    assert lengths.tolist() == [16, 100, 64, 16, 100]
    for cloud, length in zip(x, lengths, strict=True):
        assert (cloud[length:] == 0).all()
        assert (np.abs(cloud[:length]).sum(axis=1) > 0).all()
    header = (tmp_path / "drawn" / "sample-0002.ply").read_bytes()[:200]
    assert b"element vertex 64\n" in header


def test_clouds_of_one_cardinality_have_no_lengths(run, call, tmp_path):
    arguments = (f"checkpoint={run}/checkpoints/last", "sampler.num_steps=6", "output=drawn", "num_clouds=2")
    assert call("sample", *arguments, "num_particles=[40]").code == 0
    with np.load(tmp_path / "drawn" / "samples.npz") as samples:
        assert (samples.files, samples["points"].shape) == (["points"], (2, 40, 3))


def test_a_cloud_among_several_cardinalities_is_the_one_that_is_drawn_alone(run):
    model = checkpoint.load(run / "checkpoints" / "last")
    model.network.double()
    sampler = Langevin(num_steps=6)
    mixed = draw(model, sampler, num_clouds=7, num_particles=[16, 100], seed=4, batch_size=3)
    assert [len(cloud) for cloud in mixed] == [16, 100, 16, 100, 16, 100, 16]
    for index, cloud in enumerate(mixed):
        parts = model.network, model.sde, sampler, model.subdivision, model.branching
        alone = generate(*parts, num_clouds=1, num_particles=len(cloud), seed=4, first_index=index)
        torch.testing.assert_close(cloud, model.normalization.undo(alone)[0], rtol=0, atol=1e-10)  # as above


def test_a_checkpoint_of_wandb_is_fetched_below_the_output(run, call, tmp_path, monkeypatch):
    def fetch(reference, folder):
        assert reference == "wandb:me/mfcdm/run:best"
        return shutil.copytree(run / "checkpoints" / "best", folder / "run-v1")

    monkeypatch.setattr("mfcdm.training.loggers.fetch_checkpoint", fetch)
    ended = call("sample", "checkpoint=wandb:me/mfcdm/run:best", "sampler.num_steps=6", "output=drawn", "num_clouds=2")
    assert ended.code == 0, ended.err
    assert points(tmp_path / "drawn").shape == (2, 64, 3)
    assert (tmp_path / "drawn" / "checkpoint" / "run-v1" / "state.json").is_file()


def test_a_reference_to_wandb_that_is_none_ends_in_one_sentence(call):
    ended = call("sample", "checkpoint=wandb:run")
    assert (ended.code, "'wandb:run' must be wandb:entity/project/name:alias" in ended.sentence) == (2, True)


def test_real_clouds_under_the_generated_ones_are_held_out(run):
    config = checkpoint.load(run / "checkpoints" / "last").config
    title, clouds = clouds_to_show(config["dataset"], False, config["normalization"], count=3, num_points=50)
    assert (title, [len(cloud) for cloud in clouds]) == ("held-out data", [50] * 3)
    held_out = ParametricShapes(6, 64, split="val").stack()[:, :50]
    for cloud in clouds:
        assert any(torch.equal(cloud, other) for other in held_out)


def test_the_picture_has_a_row_of_real_clouds_more(run, call, tmp_path):
    sizes = []
    for name, num_real in (("without", 0), ("with", 2)):
        arguments = (
            f"checkpoint={run}/checkpoints/last",
            "sampler.num_steps=6",
            "num_clouds=2",
            f"num_real={num_real}",
        )
        ended = call("sample", *arguments, f"output={name}")
        assert ended.code == 0, ended.err
        sizes.append(read_png(tmp_path / name / "samples.png").shape)
    panel = sizes[0][1] / 2  # pixels, of two clouds side by side
    assert 0.4 * panel - 1 <= sizes[1][0] - sizes[0][0] <= panel + 1  # a row more, as high as its clouds
    assert sizes[1][1] == sizes[0][1]


def test_real_clouds_that_vanished_are_named(call, tmp_path):
    archive = tmp_path / "mine.npz"
    np.savez(archive, train=clouds(6, 64, 3), val=clouds(4, 64, 3, seed=1))
    data = ("dataset=archive", f"dataset.path={archive}", *ONE_STEP, "num_pictured=0", "hydra.run.dir=run")
    assert call("train", *data).code == 0
    archive.unlink()
    ended = call("sample", "checkpoint=run/checkpoints/last", "sampler.num_steps=6", "num_clouds=1", "num_real=2")
    assert (ended.code, str(archive) in ended.sentence) == (2, True)
    assert not (tmp_path / "samples").exists()


SAMPLE_MISTAKES = [
    (("num_real=-1",), ["num_real=-1"]),
    (("num_clouds=0",), ["num_clouds", "0"]),
    (("num_particles=0",), ["num_particles", "0"]),
    (("num_particles=[512,0]",), ["num_particles", "[512, 0]"]),
    (("num_particles=[]",), ["num_particles", "[]"]),
    (("num_particles=[512,big]",), ["num_particles", "'big'"]),
    (("num_clouds=-3",), ["num_clouds=-3"]),
    (("num_particles=many",), ["num_particles", "'many'"]),
    (("batch_size=0",), ["batch_size", "0"]),
    (("seed=-1",), ["seed=-1"]),
    ((f"seed={2**63}",), [f"seed={2**63}"]),
    (("device=tpu",), ["device=tpu"]),
    (("device=cuda:99",), ["device=cuda:99"]),
    (("sampler=best",), ["sampler/best", "langevin"]),
    (("sampler.num_steps=1",), ["num_steps=1", "4 levels"]),
    (("sampler.noise=-1",), ["noise", "-1"]),
    (("sampler.grid=fine",), ["grid", "fine"]),
    (("number=3",), ["number"]),
]


@pytest.mark.parametrize(("arguments", "named"), SAMPLE_MISTAKES, ids=[" ".join(a) for a, _ in SAMPLE_MISTAKES])
def test_sampling_mistakes_end_in_one_sentence(run, call, arguments, named):
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "device=cpu", "output=drawn", *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert ended.err.strip() == ended.sentence  # before any progress is shown
