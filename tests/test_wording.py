from mfcdm.wording import counted


def test_one_thing_is_one_thing():
    assert [counted(number, "point") for number in (0, 1, 2)] == ["0 points", "1 point", "2 points"]
    assert [counted(number, "class", "classes") for number in (1, 21)] == ["1 class", "21 classes"]
