"""The console scripts: everything between a command line and the library.

A mistake of the user ends in one sentence on stderr and exit code 2; a mistake of the program keeps its traceback.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mfcdm.version import __version__
from mfcdm.wording import quoted

# Beginnings of lines in errors of hydra and omegaconf that say nothing to a user of the commands.
NOISE = ("object_type=", "reference_type=", "To append to your config use", "See https://hydra.cc/")

# What torch says where the CPU's memory is too small; on a GPU there is an exception of its own.
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def train() -> None:
    """mfcdm-train: train a network; `mfcdm-train --help` lists the options."""
    _main("train", run_train)


def sample() -> None:
    """mfcdm-sample: draw clouds from a checkpoint; `mfcdm-sample --help` lists the options."""
    _main("sample", run_sample)


def evaluate() -> None:
    """mfcdm-evaluate: score generated clouds; `mfcdm-evaluate --help` lists the options."""
    _main("evaluate", run_evaluate)


def run_train(config: DictConfig, folder: Path) -> None:
    """Train as the configuration says, in `folder`."""
    from mfcdm.commands.assembly import MACHINE
    from mfcdm.commands.train import train_run

    taken = ("resume=", "trust=", *(f"trainer.{key}=" for key in MACHINE))
    others = [text for text in HydraConfig.get().overrides.task if not text.startswith(taken)]
    if config.get("resume") is not None and Path(str(config.resume)).is_dir() and others:
        _say(f"resume={config.resume} goes on with the run's own configuration; ignored: {' '.join(others)}")
    train_run(_plain(config), folder)


def run_sample(config: DictConfig, folder: Path) -> None:
    """Sample as the configuration says."""
    from mfcdm.commands.sample import sample_run

    sample_run(_plain(config), folder)


def run_evaluate(config: DictConfig, folder: Path) -> None:
    """Evaluate as the configuration says; hydra's folder is not used."""
    from mfcdm.commands.evaluate import evaluate_run

    evaluate_run(_plain(config))


def _main(name: str, run: Callable[[DictConfig, Path], None]) -> None:
    """Let Hydra compose the configuration, run, and turn a user's mistake into a sentence."""
    if "--version" in sys.argv[1:]:
        print(f"mfcdm {__version__}")  # noqa: T201
        return
    _check_options()
    sys.argv[1:] = map(_readable, sys.argv[1:])
    # Hydra prints its own errors over many lines and exits with 1 unless it is told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failures: list[Exception] = []
    told: list[Path] = []  # folders of a multirun's failures

    def fail(error: Exception, folder: Path) -> None:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            failures.append(error)
            return
        told.append(folder)  # the others go on, perhaps for days
        _say(f"{folder}: {sentence(error)}")

    def task(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            run(config, folder)
        except user_errors() as error:
            fail(error, folder)
        except RuntimeError as error:
            if NO_MEMORY not in str(error):
                raise
            what = str(error).split(NO_MEMORY)[-1].strip(": ")
            fail(MemoryError(f"there is not enough memory: {what}"), folder)
        finally:
            with suppress(OSError):
                if folder.resolve() != Path.cwd():  # evaluate's is where the user stands
                    folder.rmdir()  # hydra makes it before anything is checked; what holds files stays

    task.__module__ = "__main__"  # hydra takes the job's name from here
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)()
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        failures.append(error)
    except ValueError as error:  # hydra's own, which does not say what it is about
        failures.append(ValueError(f"{' '.join(sys.argv[1:])}: {error}"))
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", 130)
    if failures:
        _stop(sentence(failures[0]), 2)
    if len(told) > 1:
        _say(f"{len(told)} runs failed, as said above")
    if told:
        sys.exit(2)


def _check_options() -> None:
    """Refuse options that Hydra does not have, which it would do over many lines."""

    def refuse(message: str) -> None:
        _stop(f"{message}; options come before all keys, and --help lists both", 2)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign, assignment]
    parser.parse_args()


def _readable(argument: str) -> str:
    """A key with a value that Hydra cannot read, such as runs/größe, a=b or ~/runs, with the value in its quotes.

    What begins as a list, a dictionary or a quoted text does is left to Hydra, which may say what is wrong with it.
    """
    key, equals, value = argument.partition("=")
    if not (equals and value and re.fullmatch(r"[+\w./@:-]+", key)) or argument.startswith("-"):
        return argument
    if value.startswith("~"):  # a shell expands that in front of a path only
        value = str(Path(value).expanduser())
    try:
        OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        if value[0] in "[{\"'":
            _stop(f"{argument} cannot be read; a text with such letters needs quotes, as in 'KEY=\"VALUE\"'", 2)
        return f"{key}={quoted(value)}"
    return f"{key}={value}"


def user_errors() -> tuple[type[Exception], ...]:
    """What a user's input can cause; anything else is a bug and keeps its traceback."""
    import torch

    from mfcdm.interaction import BackendUnavailable

    return ValueError, FloatingPointError, OSError, MemoryError, torch.OutOfMemoryError, BackendUnavailable


def config_folder() -> Path:
    """Where the configurations are: beside the package in a clone, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        lines.append(f"there is no key {cause.full_key}")
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    kept = [line for line in lines if not line.startswith(NOISE)]
    return " ".join(kept) or type(error).__name__


def _plain(config: DictConfig) -> dict[str, Any]:
    """The configuration with all references resolved."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{missing[0]} is not set; give it on the command line as {missing[0]}=VALUE")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _stop(message: str, code: int) -> None:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    print(f"mfcdm: {message}", file=sys.stderr)  # noqa: T201
