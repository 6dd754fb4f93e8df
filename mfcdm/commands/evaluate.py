"""evaluate.py: score generated clouds against reference clouds under a protocol."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mfcdm.atomic import whole
from mfcdm.build import check_arguments
from mfcdm.commands.console import Meter, Pace, say
from mfcdm.evaluation import Protocol, Report, Score, checksum, evaluate, read_clouds
from mfcdm.settings import EvaluateKeys, check_device

MIN_WIDTH = 100  # of the table, so that no number is cut where stdout is a file
PERCENT = ("1nna", "cov")  # beginnings of the keys of fractions


def evaluate_run(config: dict[str, Any]) -> Report:
    """Compare the files that `config` names, print a table and write the report."""
    check_arguments(EvaluateKeys, config, "")
    check_arguments(Protocol, config["protocol"], "protocol.")
    protocol = _protocol(config["protocol"])
    device = check_device(f"device={config['device']}", config["device"])
    output = None if config["output"] is None else Path(config["output"])
    if output is not None:
        if output.is_dir():
            raise ValueError(f"output={output} is a folder; give the name of a file, for instance {output}/report.json")
        output.parent.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost
    splits = {
        "generated": config["generated_split"],
        "reference": config["reference_split"] or protocol.split,
    }
    clouds = {name: read_clouds(config[name], split) for name, split in splits.items()}
    files = {
        name: {"path": str(config[name]), "split": split, "sha256": checksum(config[name])}
        for name, split in splits.items()
    }
    with Meter("evaluating") as meter:
        report = evaluate(
            clouds["generated"], clouds["reference"], protocol, device=device, progress=_Observer(meter).show
        )
    report = replace(report, files=files)
    if output is not None:
        with whole(output) as scratch:
            scratch.write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n")
    _print(report)
    if output is not None:
        say(f"report: {output}")
    return report


def _protocol(keys: dict[str, Any]) -> Protocol:
    try:
        return Protocol(**keys)
    except ValueError as error:
        raise ValueError(f"protocol.{error}") from error


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


def _print(report: Report) -> None:
    """The table, on stdout."""
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
