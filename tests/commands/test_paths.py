"""Paths with letters that Hydra's grammar does not know."""

import pytest

from tests.commands.runs import ONE_STEP, SHAPES


@pytest.mark.parametrize("name", ["größe (1)", "lr=0.1;seed=3", "it's #1"])
def test_a_folder_may_have_any_name(call, tmp_path, name):
    ended = call("train", *SHAPES, *ONE_STEP, f"hydra.run.dir={name}/run")
    assert ended.code == 0, ended.err
    assert (tmp_path / name / "run/checkpoints/last").is_dir()
    ended = call("sample", f"checkpoint={name}/none")
    assert ended.code == 2
    assert f"{name}/none" in ended.sentence


def test_a_path_may_begin_at_home(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    ended = call("sample", "checkpoint=~/none")
    assert ended.code == 2
    assert f"{tmp_path}/own/none" in ended.sentence


def test_what_begins_as_a_list_and_is_none_is_said(call):
    ended = call("sample", "checkpoint=run", "class=[chair,größe]")
    assert ended.code == 2
    assert ended.sentence == (
        "mfcdm: class=[chair,größe] cannot be read; a text with such letters needs quotes, as in 'KEY=\"VALUE\"'"
    )
