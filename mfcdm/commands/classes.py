"""Which class each cloud is drawn from."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from mfcdm.checkpoint import Checkpoint

MAX_NAMED = 8  # classes in a title


def class_names(model: Checkpoint) -> list[str]:
    """Names of the classes that a model can draw, by label; their numbers where the names are not known."""
    num_classes = getattr(model.network, "num_classes", 0)
    return list(model.categories[:num_classes]) or [str(label) for label in range(num_classes)]


def chosen_labels(model: Checkpoint, wanted: str | int | Sequence[str | int] | None, guidance: float) -> list[int]:
    """The labels that `class=wanted` names, which the clouds take in turn; none for clouds without a label.

    Args:
        model: to draw from.
        wanted: names or numbers of classes, one or several; None for no label. A number is a class of that name where
            there is one, and only otherwise a position.
        guidance: towards them.

    Raises:
        ValueError: if the model does not know a class, or cannot be guided.
    """
    names = class_names(model)
    if not names:
        _refuse_without_classes(wanted, guidance)
        return []
    known = ", ".join(names) + (f", or a number from 0 to {len(names) - 1}" if model.categories else "")
    if wanted is None:
        if guidance != 1:
            raise ValueError(f"guidance={guidance} needs a class to lead to; class=NAME takes one or more of {known}")
        if _saw_labels_alone(model):
            raise ValueError(
                f"the network was trained with objective.label_dropout=0; class=NAME must be one of {known}"
            )
        return []
    if guidance != 1 and _saw_labels_alone(model):
        raise ValueError(
            f"guidance={guidance}: the network was trained with objective.label_dropout=0; it takes 1 alone"
        )
    several = [wanted] if isinstance(wanted, str | int) else list(wanted)
    if not several:
        raise ValueError(f"class=[] names no class; the checkpoint has {known}")
    return [_label(name, names, known) for name in several]


def in_turn(labels: Sequence[int], num_clouds: int) -> list[int]:
    """The label of each cloud, none where there is none to take."""
    return list(islice(cycle(labels), num_clouds))


def title(names: Sequence[str], labels: Sequence[int], guidance: float = 1.0) -> str:
    """What a row of generated clouds shows: their classes, where they have any, and the guidance towards them."""
    shown = [names[label] for label in dict.fromkeys(labels)]
    if not shown:
        return "generated"
    listed = ", ".join([*shown[:MAX_NAMED], "..."] if len(shown) > MAX_NAMED else shown)
    return f"generated: {listed}" + ("" if guidance == 1 else f" (guidance {guidance:g})")


def _label(name: str | int, names: list[str], known: str) -> int:
    if str(name) in names:  # also the number that a folder is called by
        return names.index(str(name))
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    raise ValueError(f"class={name} is unknown; the checkpoint has {known}")


def _saw_labels_alone(model: Checkpoint) -> bool:
    """Whether the network never learned the score without a label."""
    objective = model.config.get("objective")
    return isinstance(objective, Mapping) and objective.get("label_dropout") == 0


def _refuse_without_classes(wanted: str | int | Sequence[str | int] | None, guidance: float) -> None:
    for key, value, neutral in (("class", wanted, None), ("guidance", guidance, 1)):
        if value != neutral:
            left_out = "null" if neutral is None else neutral
            raise ValueError(
                f"{key}={value}: the checkpoint was trained without classes; {key}={left_out} draws from it"
            )
