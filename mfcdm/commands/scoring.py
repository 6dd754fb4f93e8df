"""What scoring is to both commands that do it: the protocol, the work with a bar, the report, the table."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mfcdm.atomic import whole
from mfcdm.build import check_arguments
from mfcdm.commands.console import Meter, Pace, say
from mfcdm.datasets import Clouds
from mfcdm.evaluation import Protocol, Report, Score, checksum, evaluate, read_clouds
from mfcdm.settings import Group
from mfcdm.training.scores import RecordedRun

MIN_WIDTH = 100  # of the table, so that no number is cut where stdout is a file
PERCENT = ("1nna", "cov")  # beginnings of the keys of fractions


@dataclass(frozen=True)
class Opened:
    """Clouds from a file, and what the report says about it."""

    clouds: Clouds
    about: Mapping[str, str]

    @classmethod
    def at(cls, path: str | Path, split: str) -> "Opened":
        """Read a file or folder of clouds."""
        return cls(read_clouds(path, split), {"path": str(path), "split": split, "sha256": checksum(path)})


def read_protocol(keys: Group) -> Protocol:
    """The protocol of a configuration.

    Raises:
        ValueError: if a key is unknown, or a value does not fit; the sentence begins with protocol.
    """
    check_arguments(Protocol, keys, "protocol.")
    try:
        return Protocol(**keys)
    except ValueError as error:
        raise ValueError(f"protocol.{error}") from error


def score(generated: Opened, reference: Opened, protocol: Protocol, device: str) -> Report:
    """Compare, with a progress bar."""
    with Meter("evaluating") as meter:
        report = evaluate(generated.clouds, reference.clouds, protocol, device=device, progress=_Observer(meter).show)
    return replace(report, files={"generated": generated.about, "reference": reference.about})


def publish(report: Report, path: Path | None, run: RecordedRun | None) -> None:
    """Print a report's table, write the report, and record its scores in a training's W&B run, as far as given."""
    show(report)  # first: it is there even where the file cannot be
    if path is not None:
        with whole(path) as scratch:
            scratch.write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n")
        say(f"report: {path}")
    if run is not None and run.log(recorded(report), say):
        say(f"scores: also in the W&B run of {run.folder}, at step {run.step}")


def recorded(report: Report) -> dict[str, float]:
    """The scores as W&B gets them: evaluation/<protocol>/<score>, with the ends of its interval behind it."""
    values: dict[str, float] = {}
    for found in report.scores:
        name = f"evaluation/{report.protocol.name}/{found.key}"
        values |= {name: found.value}
        if found.low is not None and found.high is not None:
            values |= {f"{name}/low": found.low, f"{name}/high": found.high}
    sizes = {"num_clouds": report.sizes["clouds"], "num_points": report.sizes["fewest_points"]}
    return values | {f"evaluation/{report.protocol.name}/{name}": size for name, size in sizes.items()}


class _Observer:
    """Shows how far a part of the work is."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.part, self.pace = meter, "", Pace()

    def show(self, part: str, done: int, total: int) -> None:
        """Move the bar."""
        if part != self.part:
            self.part = part
            self.pace.clear()
        speed = self.pace.add(done, time.monotonic())
        left = (total - done) / speed if speed > 0 else None
        self.meter.show(done / total if total else 1.0, f"{part}: {done} of {total} pairs", left)


def show(report: Report) -> None:
    """Print the table on stdout."""
    percent = f"{100 * report.protocol.confidence:g} %"
    sizes = report.sizes
    points = f"{sizes['fewest_points']}"
    if sizes["most_points"] != sizes["fewest_points"]:
        points += f" to {sizes['most_points']}"
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("score", "value", f"{percent} interval", "noise floor", "best", "p"):
        table.add_column(name, justify="left" if name == "score" else "right", no_wrap=True)
    for score in report.scores:
        table.add_row(*_cells(score))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(report.protocol.in_words())
    console.print(f"{sizes['clouds']} against {sizes['clouds']} clouds of {points} points")
    console.print(table, width=max(console.width, MIN_WIDTH), soft_wrap=False, crop=False)
    for note in report.notes:
        console.print(f"note: {note}")
    if "emd_saved" in report.details:
        solved, pairs = report.details["emd_solved"], report.details["emd_pairs"]
        console.print(f"exact assignments: {solved:.0f} of {pairs:.0f} pairs, the others ruled out by bounds")
    if "sinkhorn_emd_error_at_most" in report.details:
        console.print(f"sinkhorn_emd is at most {report.details['sinkhorn_emd_error_at_most']:.1%} below the exact EMD")
    console.print("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items()))


def _cells(score: Score) -> list[str]:
    fraction = score.key.startswith(PERCENT)

    def number(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %" if fraction else f"{value:.3g}"

    def span(low: float | None, high: float | None) -> str:
        return "-" if low is None or high is None else f"{number(low)} to {number(high)}"

    p_value = "-" if score.p_value is None else f"{score.p_value:.3f}"
    interval, floor = span(score.low, score.high), span(score.floor_low, score.floor_high)
    return [score.key, number(score.value), interval, floor, number(score.best), p_value]
