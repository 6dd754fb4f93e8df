"""Where a run's numbers, pictures and checkpoints go.

A record is {"step": int, name: number}. The names are the same in metrics.jsonl and in W&B:

  loss, loss/jacobian, loss/level_<k>, loss/log_snr/<low>..<high>   averages since the last record (`record.py`)
  branching/error, branching/energy, branching/refused              of any (`branching_error.py`), of a learned one
  learning_rate, steps_per_second, seconds                          now, since the last record, of training so far
  gradient_norm, gradient_norm/max, weight_norm                     of applied steps before clipping, now (`vitals.py`)
  clouds_per_second, particles_per_second                           of all processes together
  time/<stage>, memory/<host_mib|device_mib>                        shares of the steps' time, most held; first process
  refused, refused/level                                            steps not applied so far, level of the last one
  validation/<name>                                                 what is measured on held-out clouds

W&B has besides them trainer/step, the x axis of every chart, <name>/picture and <name>/clouds for `clouds`, and
evaluation/<protocol>/<score> (`scores.py`).
"""

import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from torch import Tensor
from torch.nn.functional import pad

from mfcdm import checkpoint
from mfcdm.training.artifacts import check_entries, check_folder, kept_files
from mfcdm.training.json_lines import JsonLines as JsonLines
from mfcdm.training.run_note import RunNote, remove_empty

MAX_CLOUDS = 8  # a panel of W&B shows no more side by side
_REFERENCE = re.compile(r"wandb:(?P<path>[^/:\s]+/[^/:\s]+/(?P<name>[^/:\s]+):[^/:\s]+)")

Mode = Literal["offline", "online", "disabled"]


class _Refused(ValueError):
    """What a user must set right before training begins."""


@runtime_checkable
class Logger(Protocol):
    """A destination of a run's records. Where several processes train, the one of rank 0 alone has loggers."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Take the values of one step."""

    def clouds(self, step: int, name: str, clouds: Sequence[Tensor], picture: Path) -> None:
        """Take clouds (N, D) each, in the data's coordinates, and a png that shows them."""

    def checkpoint(self, folder: Path, aliases: Sequence[str]) -> None:
        """Take note of a whole checkpoint, for instance as ("latest", "best")."""

    def close(self, failed: bool = False) -> None:
        """Finish."""


class Wandb:
    """A W&B run, kept in <folder>/wandb and published when the user says so.

    Offline, the default, needs no account and no network. `wandb sync <folder>/wandb` publishes everything that is
    not published yet: a resumed run has one offline folder for each of its parts, all with the same run id, and the
    command sends them in the order in which they began. Publish where the run lies, as models are recorded by their
    paths, and before the run goes on online, as its rows must arrive in order.

    A run goes on under the id in <folder>/wandb.json where the folder holds a checkpoint to go on from. Steps that
    its earlier, interrupted part recorded after that checkpoint are not recorded twice, as W&B's rows only grow; what
    a killed part had not written to the disk yet is recorded again from metrics.jsonl.

    W&B never ends a run that has begun: when it fails, that is said once and the run goes on without it. It is made
    silent in this process, as the terminal belongs to the command.

    Args:
        folder: of the run.
        config: the resolved configuration.
        project: of W&B.
        entity: team or user; null for the account's own.
        group: of runs that are shown together.
        tags: of the run.
        name: of the run; null for the folder's name.
        mode: "offline", "online" (needs `wandb login` or WANDB_API_KEY; offline where no server answers) or "disabled".
        checkpoints: whether models are kept as artifacts <name>-<run id>, without the optimizer's state: they can be
            sampled, but not resumed. They are hard links below <folder>/wandb where the file system has those.
        max_points: of a cloud that are kept, evenly taken from its rows; of `clouds` the first 8 are.
        on_failure: told the one sentence when W&B fails; else it is a RuntimeWarning.

    Raises:
        ValueError: if an argument does not fit, or W&B refuses to go online without an API key or with a wrong one.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        project: str = "mfcdm",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        mode: Mode = "offline",
        checkpoints: bool = True,
        max_points: int = 8192,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        _check(project, tags, mode, max_points)
        self._folder, self._max_points, self._checkpoints = Path(folder).resolve(), max_points, checkpoints
        self._name = name or self._folder.name
        self._on_failure = on_failure or (lambda sentence: warnings.warn(sentence, RuntimeWarning, stacklevel=2))
        self._run: Any = None
        if mode == "disabled":
            return
        names = {"project": project, "entity": entity, "group": group, "tags": list(tags), "name": self._name}
        try:
            (self._folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B would go to /tmp without a word
            self._note = RunNote(self._folder)
            remove_empty(self._folder / "wandb")
            self._run = self._started(mode, config, names)
            for step, values in self._note.missing():
                self._log(step, values)
        except _Refused:
            raise
        except Exception as error:
            self._give_up(error)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers; those of a step that an earlier part of the run recorded are left out."""
        self._attempt(self._log, step, values)

    def clouds(self, step: int, name: str, clouds: Sequence[Tensor], picture: Path) -> None:
        """Record up to 8 clouds (N, D) as <name>/clouds, with z = 0 where D = 2, and the png as <name>/picture."""
        self._attempt(self._clouds, step, name, clouds, picture)

    def checkpoint(self, folder: Path, aliases: Sequence[str]) -> None:
        """Keep the model in a checkpoint's folder as a version of the run's artifact."""
        if self._checkpoints:
            self._attempt(self._checkpoint, Path(folder).resolve(), list(aliases))

    def close(self, failed: bool = False) -> None:
        """Write or send what is left and mark the run as finished or failed."""
        self._attempt(self._close, int(failed))
        self._run = None

    def _started(self, mode: Mode, config: dict[str, Any], names: dict[str, Any]) -> Any:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        wandb.setup(settings=settings)
        try:
            if mode == "online":
                _log_in()
            run = wandb.init(
                **names,
                id=self._note.id,
                resume="allow",
                dir=str(self._folder),
                mode=mode,
                config=config,
                reinit="create_new",  # another run of this process is left alone
                settings=settings,
            )
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise _Refused(f"logger.mode={mode} is refused by W&B: {_line(error)}") from error
        except wandb.errors.CommError as error:
            if mode != "online":
                raise
            self._on_failure(f"W&B cannot be reached: {_line(error)}; the run is kept offline for `wandb sync`")
            wandb.teardown()  # its service still holds the run's id
            return self._started("offline", config, names)
        self._note.take(run.id)
        run.define_metric("trainer/step", hidden=True)
        run.define_metric("*", step_metric="trainer/step")
        self._first = max(self._note.step + 1, run.starting_step)  # of W&B's rows, which must grow over all parts
        return run

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self._first:
            self._run.log({"trainer/step": step, **values}, step=step)
            self._note.add(step)

    def _clouds(self, step: int, name: str, clouds: Sequence[Tensor], picture: Path) -> None:
        # Those of the last recorded step may be missing: an interrupted run records numbers first.
        if step < self._first - 1:
            return
        import wandb

        drawn = [wandb.Object3D(_drawn(cloud, self._max_points)) for cloud in clouds[:MAX_CLOUDS]]
        values = {f"{name}/clouds": drawn, f"{name}/picture": wandb.Image(str(picture))}
        self._run.log({"trainer/step": step, **values}, step=max(step, self._first))

    def _checkpoint(self, folder: Path, aliases: list[str]) -> None:
        import wandb

        title = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', self._name)[:100]}-{self._note.id}"
        artifact = wandb.Artifact(title, type="model", metadata={"step": checkpoint.read_state(folder)["step"]})
        # An artifact is read when it is sent, which may be long after a checkpoint has been replaced or removed.
        for file in kept_files(folder, self._folder / "wandb" / "checkpoints" / folder.name):
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=aliases)

    def _close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
        self._note.settle()

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._run is None:
            return
        try:
            action(*arguments)
        except Exception as error:  # a full disk, a service that died: training goes on
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        if isinstance(error, ConnectionError):  # W&B's service died; without this W&B would complain again at the exit
            import wandb

            with suppress(Exception):
                wandb.teardown()
        self._on_failure(f"W&B failed and records no more of this run: {_line(error)}")


def fetch_checkpoint(reference: str, folder: Path) -> Path:
    """Download a checkpoint from W&B.

    Args:
        reference: "wandb:entity/project/name:alias".
        folder: below which it is put, as name-version; an earlier download of that name is replaced.

    Returns:
        the checkpoint's folder, for `mfcdm.checkpoint.load`.

    Raises:
        ValueError: if the reference is no such text, or the artifact is not a checkpoint alone.
        FileNotFoundError: if W&B does not have it, cannot be reached or finds no API key.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference!r} must be wandb:entity/project/name:alias, for instance wandb:me/mfcdm/run:best")
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        _log_in()
        artifact = wandb.Api().artifact(match["path"], type="model")
        entries = artifact.manifest.entries
    except Exception as error:
        raise FileNotFoundError(f"{reference} cannot be fetched from W&B: {_line(error)}") from error
    check_entries(reference, entries)
    target = folder / re.sub(r"[^\w.-]", "-", f"{match['name']}-{artifact.version}")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
    try:
        try:
            artifact.download(root=str(scratch), skip_cache=True)
        except Exception as error:
            raise FileNotFoundError(f"{reference} cannot be fetched from W&B: {_line(error)}") from error
        check_folder(reference, scratch)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _log_in() -> None:
    """Find the API key without asking for it on the terminal."""
    import wandb

    if not wandb.login(verify=False, prompt=False):
        raise wandb.errors.UsageError("it found no API key; call `wandb login` or set WANDB_API_KEY")


def _check(project: str, tags: Sequence[str], mode: str, max_points: int) -> None:
    """Refuse what W&B would refuse later, when the run is published."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if not 0 < len(project) <= 128 or set(project) & set("/\\#?%:"):
        raise ValueError(f"project must have 1 to 128 characters and none of / \\ # ? % :, got {project!r}")
    if odd := [tag for tag in tags if not 0 < len(tag) <= 64]:
        raise ValueError(f"each of tags must have 1 to 64 characters, got {odd[0]!r}")
    if max_points < 1:
        raise ValueError(f"max_points must be >= 1, got {max_points}")


def _drawn(cloud: Tensor, max_points: int) -> Any:
    """A cloud (N, D) as an array (at most max_points, 3); rows of padding, which may be NaN, are left out."""
    cloud = cloud.detach().cpu().float()
    cloud = cloud[cloud.isfinite().all(dim=1)]
    return pad(cloud[:: max(1, math.ceil(len(cloud) / max_points))], (0, 3 - cloud.shape[1])).numpy()


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
