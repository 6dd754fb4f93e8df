"""What a part of a model would be, without building it: its weights' shapes alone, on the device meta."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from mfcdm.build import build

T = TypeVar("T")


def outline_of(config: dict[str, Any], kind: type[T], most: int, complaint: str) -> T:
    """Build a part whose weights take no memory.

    Args:
        config: of the part, of a class of mfcdm.
        kind: that it is to be.
        most: weights that it may make.
        complaint: what to say of one that makes more.

    Raises:
        ValueError: if the configuration is refused, or asks for more weights, or for some that nobody can count.
    """
    try:
        with torch.device("meta"), _at_most(most, complaint):
            return build(config, kind)
    except RuntimeError as error:  # sizes that not even torch can count
        raise ValueError(" ".join(str(error).split())) from error


@contextmanager
def _at_most(most: int, complaint: str) -> Iterator[None]:
    """Refuse, within the block, a part that goes on making weights.

    A billion blocks take no memory on the device meta, but would take days.
    """
    made, thread = 0, get_ident()

    def count(*_: object) -> None:
        nonlocal made
        made += get_ident() == thread
        if made > most:
            raise ValueError(complaint)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
