"""Words of the sentences that users read."""


def printable(name: str) -> str:
    """The name of a file as text that every stream takes: bytes of it that are no UTF-8 stand there as codes.

    Args:
        name: as Python has it.
    """
    return name.encode(errors="backslashreplace").decode()


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 point", "2 points".

    Args:
        number: of them.
        noun: for one.
        plural: where it is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
