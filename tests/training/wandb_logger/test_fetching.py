"""A checkpoint from W&B is fetched whole, and nothing else is."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mfcdm import checkpoint
from mfcdm.training.loggers import fetch_checkpoint
from tests.training.wandb_logger.conftest import MODEL

pytestmark = pytest.mark.usefixtures("no_wandb_account")

REFERENCE = "wandb:me/mfcdm/plane-ab12:best"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """W&B with one artifact, me/mfcdm/plane-ab12:best; `add` hooks into its list of files and its download."""
    import wandb

    state = SimpleNamespace(folder=tmp_path / "stored", listed=None, extra=lambda root: None)

    def download(root, skip_cache):
        assert skip_cache
        for path in state.folder.iterdir():
            (Path(root) / path.name).write_bytes(path.read_bytes())
        state.extra(Path(root))

    def artifact(path, type):
        if (path, type) != ("me/mfcdm/plane-ab12:best", "model"):
            raise wandb.errors.CommError(f"artifact '{path}' not found\nin 'me/mfcdm'")
        names = [path.name for path in state.folder.iterdir()] if state.listed is None else state.listed
        entries = {name: SimpleNamespace(ref=None) for name in names} if isinstance(names, list) else names
        manifest = SimpleNamespace(entries=entries)
        return SimpleNamespace(version="v3", manifest=manifest, download=download)

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb, "login", lambda **options: options == {"verify": False, "prompt": False})
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact=artifact))
    return state


def test_a_checkpoint_is_fetched_and_loads(tmp_path, save, server):
    save(server.folder, step=70)
    (server.folder / "training.safetensors").unlink()
    for _ in range(2):  # the second download replaces the first
        fetched = fetch_checkpoint(REFERENCE, tmp_path / "fetched")
        assert fetched == tmp_path / "fetched/plane-ab12-v3"
        assert {path.name for path in fetched.iterdir()} == MODEL
        assert checkpoint.load(fetched).step == 70
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["plane-ab12-v3"]


@pytest.mark.parametrize("wrong", ["foo", "me/mfcdm/foo", "me/mfcdm/../x:best", "/mfcdm/foo:best", "me/mfcdm/foo:"])
def test_references_that_are_none(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"^'wandb:.*' must be wandb:entity/project/name:alias, for instance"):
        fetch_checkpoint(f"wandb:{wrong}", tmp_path)


def test_an_unknown_alias_is_one_sentence(tmp_path, server):
    with pytest.raises(FileNotFoundError) as raised:
        fetch_checkpoint("wandb:me/mfcdm/plane-ab12:worst", tmp_path / "fetched")
    assert str(raised.value) == (
        "wandb:me/mfcdm/plane-ab12:worst cannot be fetched from W&B: "
        "artifact 'me/mfcdm/plane-ab12:worst' not found in 'me/mfcdm'"
    )
    assert not (tmp_path / "fetched").exists()


def test_fetching_without_a_key_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched from W&B: it found no API key; call `wandb login`"):
        fetch_checkpoint(REFERENCE, tmp_path)


@pytest.mark.parametrize("name", ["setup.py", "weights.pt", "../state.json", "/etc/passwd", "sub/state.json"])
def test_foreign_files_in_the_list_are_refused_before_a_download(tmp_path, server, name):
    server.listed = [*MODEL, name]
    server.extra = pytest.fail
    with pytest.raises(ValueError, match=r"is refused: '.*' is no file of a checkpoint") as raised:
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert repr(name) in str(raised.value)
    assert not (tmp_path / "fetched").exists()


def test_an_artifact_that_lacks_a_file_is_refused(tmp_path, server):
    server.listed = sorted(MODEL - {"config.yaml"})
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no config\.yaml"):
        fetch_checkpoint(REFERENCE, tmp_path)


def test_links_to_elsewhere_are_refused(tmp_path, server):
    server.listed = {name: SimpleNamespace(ref=None) for name in MODEL}
    server.listed["state.json"].ref = "file:///etc/passwd"
    with pytest.raises(ValueError, match=r"is refused: 'state\.json' is a link to elsewhere"):
        fetch_checkpoint(REFERENCE, tmp_path)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (lambda root: (root / "setup.py").write_text(""), "'setup.py' is no file of a checkpoint"),
        (lambda root: (root / "sub").mkdir(), "'sub' is no file of a checkpoint"),
        (
            lambda root: (root / "training.safetensors").symlink_to("state.json"),
            "'training.safetensors' is not a plain",
        ),
    ],
)
def test_what_was_downloaded_is_checked_again(tmp_path, save, server, extra, sentence):
    save(server.folder)
    (server.folder / "training.safetensors").unlink()
    server.extra = extra
    with pytest.raises(ValueError, match=f"is refused: {sentence}"):
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())


def test_a_download_that_breaks_leaves_nothing(tmp_path, save, server):
    def broken(root):
        raise OSError("connection reset")

    save(server.folder)
    server.extra = broken
    with pytest.raises(FileNotFoundError, match="cannot be fetched from W&B: connection reset"):
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())
