import os

from mfcdm.wording import counted, printable


def test_one_thing_is_one_thing():
    assert [counted(number, "point") for number in (0, 1, 2)] == ["0 points", "1 point", "2 points"]
    assert [counted(number, "class", "classes") for number in (1, 21)] == ["1 class", "21 classes"]


def test_a_name_that_is_no_utf8_can_be_printed():
    name = printable(os.fsdecode(b"caf\xe9/\xc3\xbc.npy"))
    assert name == "caf\\udce9/\xfc.npy"
    name.encode()
