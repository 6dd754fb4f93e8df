"""Whether a resumed run has the data that it began with: on others it would go on in another scale, without a word."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mfcdm.datasets.clouds import Normalization
from mfcdm.wording import counted

APART = 1e-5  # of a standard deviation that means may lie apart, and of itself that one may differ
ROUNDING = 5e-7  # of a mean that float32 keeps of it


def check_same_data(
    state: dict[str, Any], normalization: Normalization, categories: Sequence[str], num_clouds: int, place: str
) -> None:
    """Refuse data that are not those of a checkpoint, as far as it tells; those of earlier versions count no clouds.

    Args:
        state: of the checkpoint.
        normalization: fitted to the data that are there now.
        categories: that they have.
        num_clouds: that they are.
        place: where they lie, for the complaint.

    Raises:
        ValueError: a sentence that names the place and the difference.
    """
    number = state["training"].get("num_clouds", num_clouds)
    mean, std = normalization.mean, float(normalization.std)
    found = ""
    if number != num_clouds:
        found = f"there are {counted(num_clouds, 'cloud')}, and were {number}"
    elif list(categories) != state["categories"]:
        found = f"the categories are {_named(categories)}, and were {_named(state['categories'])}"
    elif _apart(mean, std, state["mean"], state["std"]):
        now, then = _scale(mean.tolist(), std), _scale(state["mean"], state["std"])
        found = f"their mean and standard deviation are {now}, and were {then}"
    if found:
        raise ValueError(
            f"{place} holds other data than the run began with: {found}; a run goes on with the same data only, "
            "a new one takes others"
        )


def place_of(dataset: dict[str, Any]) -> str:
    """Where the data of a configuration lie; a relative path depends on the folder that one stands in."""
    path = dataset.get("path")
    return str(dataset.get("_target_", "the data set")) if path is None else str(Path(str(path)).absolute())


def _apart(mean: Tensor, std: float, old_mean: Sequence[float], old_std: float) -> bool:
    """Whether two normalisations differ by more than another order of summation explains."""
    if len(mean) != len(old_mean) or abs(std - old_std) > APART * old_std:
        return True
    pairs = zip(mean.tolist(), old_mean, strict=True)
    return any(abs(now - then) > APART * old_std + ROUNDING * abs(then) for now, then in pairs)


def _scale(mean: Sequence[float], std: float) -> str:
    return f"({', '.join(f'{value:.7g}' for value in mean)}) and {std:.7g}"


def _named(categories: Sequence[str]) -> str:
    return ", ".join(categories) or "none"
