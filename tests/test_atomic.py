import errno
import os

import pytest

from mfcdm.atomic import check_writable, whole


def test_a_file_takes_its_place_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with whole(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with whole(path) as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="below"), whole(tmp_path / "file" / "below") as scratch:
        scratch.write_text("")


def test_complaints_name_the_place_and_not_the_one_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent" / "file", tmp_path / "folder"):
        with pytest.raises(OSError, match=path.name) as raised, whole(path) as scratch:
            scratch.write_text("")
        assert (raised.value.filename, ".writing" in str(raised.value)) == (str(path), False)
    with pytest.raises(OSError, match="No space") as raised, whole(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write to an open file does, without a name
    assert raised.value.filename == str(tmp_path / "file")


def test_a_probe_leaves_nothing_and_names_the_place(tmp_path):
    (tmp_path / "file").write_text("old")
    for name in ("file", "other"):
        check_writable(tmp_path / name)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    for path in (tmp_path, tmp_path / "absent" / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=path.name) as raised:
            check_writable(path)
        assert ".writing" not in str(raised.value)
