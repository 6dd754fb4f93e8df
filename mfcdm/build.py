"""Build the project's own objects from a configuration, and nothing else unless it is trusted."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


def build(config: Mapping[str, Any], kind: type[T], *, trust: bool = False, **extra: Any) -> T:
    """Call what `config["_target_"]` names with the configuration's other entries.

    A configuration may come with a file that somebody else wrote. So the target must be a class of mfcdm, or a class
    method of one, that makes an instance of `kind`, and no entry may itself be a configuration with a target.

    Args:
        config: {"_target_": "mfcdm.module.Class", argument: plain value, ...}.
        kind: class that the object must be an instance of.
        trust: allow any target that can be imported, and nested ones: for a user's own configuration.
        extra: arguments that no configuration can hold, passed where the target takes them.

    Returns:
        the object.

    Raises:
        ValueError: if the target is missing, not allowed, not importable, or does not take the arguments.
    """
    target = config.get("_target_")
    if not isinstance(target, str):
        raise ValueError(f"a configuration of a {kind.__name__} needs a _target_, got {target!r}")
    if trust:
        return _build_trusted(config, kind, target, extra)
    make = _own_class(target, kind)
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if _holds_target(list(arguments.values())):
        raise ValueError(f"a configuration of {target} may not hold another _target_")
    return _called(make, target, kind, {**arguments, **_taken(make, extra)})


def _build_trusted(config: Mapping[str, Any], kind: type[T], target: str, extra: dict[str, Any]) -> T:
    # hydra is needed only here: a library user who builds objects by hand never imports it.
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    try:
        make = get_object(target)
        made = instantiate(dict(config), **_taken(make, extra), _convert_="all")
    except (InstantiationException, ImportError, AttributeError, ValueError) as error:
        cause = error.__cause__ or error
        raise ValueError(f"{target}: {cause}" if not isinstance(cause, ValueError) else str(cause)) from error
    return _checked(made, target, kind)


def _own_class(target: str, kind: type) -> Any:
    """The class (or its class method) that a dotted path names, if it is mfcdm's and makes a `kind`."""
    refusal = (
        f"_target_ {target!r} is refused: a checkpoint builds only a {kind.__name__} of mfcdm; trust=True lifts this"
    )
    parts = target.split(".")
    if parts[0] != "mfcdm" or not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise ValueError(refusal)
    for cut in (-1, -2):  # module.Class, or module.Class.method
        try:
            owner: Any = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        cls = getattr(owner, parts[cut], None)
        # The class must be defined in mfcdm: mfcdm.build.inspect.Signature is reachable by a path but is not ours.
        if not (inspect.isclass(cls) and cls.__module__.split(".")[0] == "mfcdm" and issubclass(cls, kind)):
            raise ValueError(refusal)
        if cut == -1:
            return cls
        if not isinstance(inspect.getattr_static(cls, parts[-1], None), classmethod):
            raise ValueError(refusal)
        return getattr(cls, parts[-1])
    raise ValueError(refusal)


def _called(make: Any, target: str, kind: type[T], arguments: dict[str, Any]) -> T:
    try:
        inspect.signature(make).bind(**arguments)
        made = make(**arguments)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from error
    return _checked(made, target, kind)


def _checked(made: Any, target: str, kind: type[T]) -> T:
    if not isinstance(made, kind):
        raise ValueError(f"{target} made a {type(made).__name__}, but a {kind.__name__} is needed")
    return made


def _taken(make: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that the target has."""
    parameters = inspect.signature(make).parameters
    return {key: value for key, value in extra.items() if key in parameters}


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or _holds_target(list(value.values()))
    return isinstance(value, list | tuple) and any(_holds_target(part) for part in value)
