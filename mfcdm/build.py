"""Build the project's own objects from a configuration, and nothing else unless it is trusted."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(config: Mapping[str, Any], kind: type[T], /, *, trust: bool = False, **extra: Any) -> T:
    """Call what `config["_target_"]` names with the configuration's other entries.

    A configuration may come with a file that somebody else wrote. So the target must be a class of mfcdm, or a class
    method of one, that makes an instance of `kind`. An entry that is itself a configuration with a target is built by
    the same rule, where the argument's annotation names a class of mfcdm, of which it must be; elsewhere it is refused.

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
    hints = {_key(name): hint for name, hint in _hints(make).items()}
    for key, value in arguments.items():
        own = _own_kind(hints.get(key))
        if own is not None and isinstance(value, Mapping) and "_target_" in value:
            arguments[key] = build(value, own)
        elif _holds_target(value):
            raise ValueError(f"a configuration of {target} may not hold another _target_, as its {key} does")
    return _called(make, target, kind, arguments, extra)


def check_arguments(
    make: Callable[..., Any], arguments: Mapping[str, Any], prefix: str, given: Iterable[str] = ()
) -> None:
    """Refuse arguments that a class or function does not have, lacks, or whose type is not the annotated one.

    Plain values of a configuration are checked against annotations made of numbers, text, null, literals and lists.
    The key `class` is that of a parameter class_: Python lets none bear the name of a keyword.

    Args:
        make: class or function.
        arguments: by name.
        prefix: of the sentence, for instance "trainer.".
        given: names of further arguments, which are not checked.

    Raises:
        ValueError: a sentence that names the argument and its value.
    """
    parameters = {_key(name): parameter for name, parameter in inspect.signature(make).parameters.items()}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in arguments:
        if key not in parameters and not open_ended:
            raise ValueError(f"{prefix}{key} is unknown; known are {', '.join(parameters)}")
    for key, parameter in parameters.items():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if not optional and key not in arguments and key not in given:
            raise ValueError(f"{prefix}{key} is missing")
    hints = {_key(name): hint for name, hint in _hints(make).items()}
    for key, value in arguments.items():
        hint = hints.get(key, Any)
        if not _fits(value, hint):
            raise ValueError(f"{prefix}{key} must be {_described(hint)}, got {value!r}")


def _build_trusted(config: Mapping[str, Any], kind: type[T], target: str, extra: dict[str, Any]) -> T:
    # hydra is needed only here: a library user who builds objects by hand never imports it.
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    try:
        make = get_object(target)
        arguments = instantiate({key: value for key, value in config.items() if key != "_target_"}, _convert_="all")
    except (InstantiationException, ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{target} cannot be built: {error.__cause__ or error}") from error
    # hydra would turn the extra objects into configurations, so the target is called here.
    return _called(make, target, kind, arguments, extra)


def _own_class(target: str, kind: type) -> Any:
    """The class (or its class method) that a dotted path names, if it is mfcdm's and makes a `kind`."""
    refusal = (
        f"_target_ {target!r} is refused: a checkpoint builds only a {kind.__name__} of mfcdm; trust=True lifts this"
    )
    parts = target.split(".")
    if parts[0] != "mfcdm" or not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise ValueError(refusal)
    for cut in (-1, -2):  # module.Class, or module.Class.method
        if len(parts) + cut < 1:
            break
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


def _own_kind(hint: Any) -> type | None:
    """The one class of mfcdm that an annotation names, alone or among others."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    own = [part for part in parts if inspect.isclass(part) and part.__module__.split(".")[0] == "mfcdm"]
    return own[0] if len(own) == 1 else None


def _called(make: Any, target: str, kind: type[T], arguments: dict[str, Any], extra: dict[str, Any]) -> T:
    taken = _taken(make, extra)
    check_arguments(make, arguments, f"{target}: ", given=taken)
    names = {_key(name): name for name in inspect.signature(make).parameters}
    try:
        made = make(**{names.get(key, key): value for key, value in arguments.items()}, **taken)
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


def _key(name: str) -> str:
    """The configuration's key for a parameter: `class` for class_, else its name."""
    return name[:-1] if name.endswith("_") and iskeyword(name[:-1]) else name


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or _holds_target(list(value.values()))
    return isinstance(value, list | tuple) and any(_holds_target(part) for part in value)


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what a class or function takes; none where names in them exist for a type checker only."""
    # A dataclass's inherited fields are annotated with names of the parent's module: ask the class, not its __init__.
    sources = [make, make.__init__] if is_dataclass(make) else [make.__init__ if inspect.isclass(make) else make]
    for source in sources:
        try:
            return get_type_hints(source)
        except (NameError, TypeError):
            continue
    return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotated type; annotations richer than a configuration can hold always fit."""
    if not isinstance(value, Mapping | list | tuple | str | int | float | bool | NoneType):
        return True  # an object that a nested target made
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if hint in (int, float):  # YAML's 1 is a float too, its true is no number
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return isinstance(value, list | tuple) and all(_fits(part, parts[0]) for part in value)
    return True


def _described(hint: Any) -> str:
    """An annotation in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_described(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a group of keys"
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return f"a list, each {_described(parts[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    words[Path] = "a path"
    return words.get(hint, getattr(hint, "__name__", str(hint)))
