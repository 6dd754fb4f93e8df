import os
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mfcdm.wording import counted, printable, spelled


def test_one_thing_is_one_thing():
    assert [counted(number, "point") for number in (0, 1, 2)] == ["0 points", "1 point", "2 points"]
    assert [counted(number, "class", "classes") for number in (1, 21)] == ["1 class", "21 classes"]


@pytest.mark.parametrize(
    "path",
    [
        "runs/größe",
        "runs/lr=0.1,seed=3",
        "a (1)/b",
        "~/x#y;z&!",
        "it's",
        'say "so"',
        "end\\",
        'a\\"b',
        "[x",
        "{y",
        "  ",
    ],
)
def test_a_shell_and_hydra_read_the_very_path(path):
    (word,) = shlex.split(spelled("resume", path))
    assert OverridesParser.create().parse_override(word).value() == path


def test_a_plain_path_is_spelled_plainly():
    assert spelled("resume", "runs/mine-2_b.1") == "resume=runs/mine-2_b.1"


def test_a_name_that_is_no_utf8_can_be_printed():
    name = printable(os.fsdecode(b"caf\xe9/\xc3\xbc.npy"))
    assert name == "caf\\udce9/\xfc.npy"
    name.encode()
