"""report.html of a run: made when training ends, and again by python -m mfcdm.report."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from mfcdm import checkpoint
from mfcdm.commands.console import Arguments, say, stop
from mfcdm.commands.data import read_clouds
from mfcdm.datasets import Clouds, rescaled
from mfcdm.report import find_samples, write_report

ABOUT = """Write RUN/report.html: one page with the curves, samples beside their nearest training shapes, the
configuration and the scores. It needs no network."""
PARTS = ("config.yaml", "metrics.jsonl", "checkpoints")  # a run has at least one of them
STOPPED = "the run was stopped, and looking for them takes time; the last command under Configuration does it."


def main(given: Sequence[str] | None = None) -> None:
    """Write the page as the command line says; a mistake ends in one sentence and exit code 2."""
    parser = Arguments(prog="python -m mfcdm.report", description=ABOUT)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a training run")
    parser.add_argument("--trust", action="store_true", help="also build a data set of a class outside mfcdm")
    options = parser.parse_args(given)
    try:
        say(f"report: {report_run(options.run, options.trust)}")
    except OSError as error:
        stop(f"{error.filename or options.run}: {error.strerror}" if error.strerror else str(error))
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C", 130)


def report_run(folder: Path, trust: bool) -> Path:
    """Write report.html of a run from what its folder holds and, where they are still there, its training data.

    Args:
        folder: of the run.
        trust: as in `build`, for a data set of the user's own class.

    Raises:
        FileNotFoundError: if no run is there.
        OSError: if the file cannot be written.
    """
    if not any((folder / name).exists() for name in PARTS):
        raise FileNotFoundError(f"{folder} is no run: it holds no {', '.join(PARTS[:-1])} or {PARTS[-1]}")
    training, missing = _training(folder, trust) if find_samples(folder) is not None else (None, "")
    return write_report(folder, training, missing=missing)


def try_report(folder: Path, training: Clouds, stopped: bool) -> None:
    """Write report.html of a run that has ended; where that fails it is a warning, as the run is worth more.

    Args:
        folder: of the run.
        training: its clouds, in the scale of the configured normalisation.
        stopped: the process was told to end, and may be killed soon: the training clouds are not looked through.
    """
    try:
        path = write_report(folder, None if stopped else training, missing=STOPPED if stopped else "")
        say(f"report: {path}")
    except Exception as error:  # of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{folder / 'report.html'} could not be written: {reason}", stacklevel=2)


def _training(folder: Path, trust: bool) -> tuple[Clouds | None, str]:
    """The training clouds of a run, in the scale of its samples; or none, and why."""
    try:
        config = checkpoint.read_config(folder)
        return rescaled(read_clouds(config["dataset"], trust), config["normalization"]), ""
    except KeyError as error:
        return None, f"config.yaml does not say its {error.args[0]}."
    except (OSError, ValueError, MemoryError) as error:
        return None, " ".join(str(error).split())
