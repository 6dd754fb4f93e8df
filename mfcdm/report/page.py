"""The page itself: what a run's folder holds, in one file that a browser shows without a network."""

import base64
import hashlib
import html
import json
import math
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mfcdm import checkpoint
from mfcdm.atomic import whole
from mfcdm.checkpoint_text import parsed
from mfcdm.datasets import Clouds
from mfcdm.report import tables
from mfcdm.report.records import Records, charts, read_records, thinned
from mfcdm.report.samples import Samples, pairs, read_samples
from mfcdm.version import __version__
from mfcdm.wording import counted

FILE = "report.html"
SCRIPTS = ("page.js", "curves.js", "samples.js")  # one scope, in this order


def write_report(
    folder: str | Path, training: Clouds | None = None, *, missing: str = "they were not given.", seed: int = 0
) -> Path:
    """Write everything that a run's folder says into report.html there: one file, whole or not at all.

    Whatever is missing or damaged in the folder is said on the page. The page needs no network: a policy in its head
    forbids a browser to load anything, and to run any script but those that are written here.

    Args:
        folder: of the run.
        training: what it was trained on, in the coordinates of its samples: the nearest ones are shown beside them;
            None for samples alone.
        missing: why there is none, for the reader.
        seed: of the subsets that are compared and drawn.

    Returns:
        the file.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if the file cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    page = _Page(folder, training, missing, seed).html()
    with whole(folder / FILE) as scratch:
        # A lone surrogate, as a name of a file may hold, is no text that a file could hold.
        scratch.write_bytes(page.encode("utf-8", errors="replace"))
    return folder / FILE


class _Page:
    """What is on the page; `notes` are sentences about what is not."""

    def __init__(self, folder: Path, training: Clouds | None, missing: str, seed: int) -> None:
        self.folder, self.notes = folder, list[str]()
        self.config = self._mapping("config.yaml", yaml.safe_load)
        self.environment = self._mapping("environment.json", json.loads)
        self.records = self._records()
        self.state = self._state()
        self.samples = self._samples()
        self.pairs = self._pairs(training, missing, seed)

    def html(self) -> str:
        """The whole file."""
        from plotly.offline import get_plotlyjs

        own = "\n".join(_part(name) for name in SCRIPTS)
        scripts = [_plain(get_plotlyjs()), _plain(f'(() => {{\n"use strict";\n{own}\nstart();\n}})();')]
        data = {"charts": charts(self.records), "clock": _clock(self.records), "pairs": self.pairs}
        evaluations = "".join(self._evaluations())
        validations = tables.validations(self.records, self.config)
        return string.Template(_part("page.html")).substitute(
            policy=html.escape(_policy(scripts)),
            title=tables.text(self.title),
            style=_part("page.css"),
            facts="".join(f"<div><dt>{tables.text(k)}</dt><dd>{tables.text(v)}</dd></div>" for k, v in self.facts()),
            scores=evaluations + validations or "<p>No scores yet: no validation, and no report.json.</p>",
            samples=tables.text(self._about_samples()),
            notes="".join(f"<li>{tables.text(note)}</li>" for note in self.notes),
            commands=tables.commands(self.folder),
            configuration=tables.configuration(self.config) or "<p>No config.yaml.</p>",
            environment=tables.environment(self.environment) if self.environment else "<p>No environment.json.</p>",
            made=tables.text(f"made by mfcdm {__version__} on {datetime.now():%Y-%m-%d at %H:%M}"),
            data=_embedded(data),
            plotly=scripts[0],
            script=scripts[1],
        )

    @property
    def title(self) -> str:
        """The experiment's name and the folder's."""
        name = self.config.get("name")
        own = self.folder.resolve().name
        return f"{name}: {own}" if isinstance(name, str) and name not in ("", own) else own

    def facts(self) -> list[tuple[str, str]]:
        """What a reader wants to know first."""
        last: dict[str, float] = {}
        for row in self.records.rows.values():
            last |= row
        steps = [str(self.state["step"])] if self.state else [str(step) for step in list(self.records.rows)[-1:]]
        found = [("steps", step) for step in steps]
        if "seconds" in last:
            found.append(("minutes of training", f"{last['seconds'] / 60:.1f}"))
        if "loss" in last:
            found.append(("loss", f"{last['loss']:.4g}"))
        if "validation/1nna-cd" in last:
            low, high = (last.get(f"validation/1nna-cd/{end}", math.nan) for end in ("low", "high"))
            score = f"{100 * last['validation/1nna-cd']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            found.append(("1-NNA, 50 % is best", score))
        found += [(key, str(self.environment[key])) for key in ("device", "git") if self.environment.get(key)]
        return [(key, value[:12] if key == "git" else value) for key, value in found]

    def _records(self) -> Records:
        try:
            records = read_records(self.folder / "metrics.jsonl")
        except OSError as error:
            self.notes.append(f"metrics.jsonl could not be read: {error}")
            return Records({}, 0)
        if not records.rows:
            self.notes.append("There are no records yet: metrics.jsonl is missing, or holds none.")
        if records.damaged:
            self.notes.append(f"Damaged lines of metrics.jsonl that are left out: {records.damaged}.")
        if records.not_finite:
            self.notes.append(f"Values that are NaN or infinite, and gaps in the curves: {records.not_finite}.")
        return records

    def _state(self) -> dict[str, Any]:
        newest = checkpoint.newest(self.folder / "checkpoints")
        try:
            return {} if newest is None else checkpoint.read_state(newest)
        except (OSError, ValueError) as error:
            self.notes.append(f"The newest checkpoint could not be read: {error}")
            return {}

    def _samples(self) -> Samples | None:
        try:
            samples = read_samples(self.folder, self.state.get("categories", ()))
        except (OSError, ValueError) as error:
            self.notes.append(f"The samples could not be read: {error}")
            return None
        newest = checkpoint.newest(self.folder / "checkpoints")
        if samples is not None and newest is not None and _changed(samples.path) < _changed(newest / "state.json"):
            self.notes.append("The samples are older than the newest checkpoint.")
        return samples

    def _pairs(self, training: Clouds | None, missing: str, seed: int) -> list[dict[str, Any]]:
        if self.samples is None:
            return []
        try:
            found = pairs(self.samples, training, seed)
        except (OSError, ValueError) as error:  # of another dimension, or no longer in their files
            training, missing, found = None, str(error), pairs(self.samples, seed=seed)
        looked = found[0]["match"]["num_shapes"] if training is not None else 0
        if training is None:
            self.notes.append(f"No training shapes beside the samples: {missing}")
        elif looked < len(training):
            self.notes.append(f"The nearest training shapes are those among {looked} of {len(training)}, at random.")
        return found

    def _about_samples(self) -> str:
        if self.samples is None:
            return "No samples yet: the commands under Configuration draw some, and make this page again."
        return f"The first {counted(len(self.pairs), 'cloud')} of {self.samples.path.relative_to(self.folder)}."

    def _evaluations(self) -> list[str]:
        """The reports of this run's evaluations, the newest first."""
        found = [path for pattern in ("report.json", "*/report.json") for path in self.folder.glob(pattern)]
        shown = []
        for path in sorted(found, key=_changed, reverse=True):
            name = str(path.relative_to(self.folder))
            if report := self._mapping(name, json.loads):
                try:
                    shown.append(tables.evaluation(name, report))
                except ValueError as error:
                    self.notes.append(f"{name} is left out: {error}")
        return shown

    def _mapping(self, name: str, read: Any) -> dict[str, Any]:
        """What a file of the folder holds; nothing where it is missing, and a note where it is damaged."""
        try:
            held = parsed((self.folder / name).read_text(encoding="utf-8"), read, Path(name))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.notes.append(f"{name} could not be read: {' '.join(str(error).split())}")
            return {}
        if not isinstance(held, Mapping):
            self.notes.append(f"{name} could not be read: it is no mapping")
            return {}
        return {str(key): value for key, value in held.items()}


def _clock(records: Records) -> dict[str, list[float]]:
    """Seconds of training by step, for curves over time."""
    known = [
        (step, row["seconds"]) for step, row in records.rows.items() if math.isfinite(row.get("seconds", math.nan))
    ]
    kept = [known[at] for at in thinned([seconds for _, seconds in known])]
    return {"steps": [step for step, _ in kept], "seconds": [seconds for _, seconds in kept]}


def _embedded(data: Any) -> str:
    """JSON that can stand in a script element, whatever its strings hold."""
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str]) -> str:
    """What the browser may do: show what is in the file, run these scripts, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _plain(script: str) -> str:
    """With the line ends that a browser gives a script before it computes its hash."""
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _part(name: str) -> str:
    return (files("mfcdm.report") / name).read_text(encoding="utf-8")
