"""The records of a run as charts: what belongs together, which intervals, and few enough points to draw."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

MAX_POINTS = 2000  # of a curve
MAX_STEP = 2**53  # beyond it a browser's numbers are not exact
WIDE = 30.0  # ratio of the largest to the smallest value from which a logarithmic axis shows more

TITLES = {
    "loss": "Loss",
    "loss/level": "Loss by level of the subdivision",
    "loss/log_snr": "Loss by noise, log-SNR in nats",
    "loss/jacobian": "Loss of the Jacobian",
    "learning_rate": "Learning rate",
    "steps_per_second": "Steps per second",
    "clouds_per_second": "Clouds per second",
    "particles_per_second": "Particles per second",
    "gradient_norm": "Norm of the gradient before clipping, mean",
    "gradient_norm/max": "Norm of the gradient before clipping, largest",
    "weight_norm": "Norm of the weights",
    "time/data": "Share of time: reading batches",
    "time/draw": "Share of time: drawing levels, times and noise",
    "time/forward": "Share of time: the network and its loss",
    "time/backward": "Share of time: gradients",
    "time/exchange": "Share of time: the other processes",
    "time/optimizer": "Share of time: moving weights and averages",
    "time/branching": "Share of time: branching",
    "time/record": "Share of time: records and pictures",
    "time/checkpoint": "Share of time: checkpoints",
    "time/other": "Share of time: all else",
    "memory/host_mib": "Most memory held by the process, MiB",
    "memory/device_mib": "Most memory held by tensors on the GPU, MiB",
    "seconds": "Seconds of training",
    "refused": "Steps not applied so far",
    "refused/level": "Level of the last step not applied",
    "branching/error": "Error of branching: 0 for fresh particles, b - 1 for b copies",
    "branching/energy": "Loss of the learned branching",
    "branching/refused": "Steps of the branching not applied so far",
    "validation/1nna-cd": "Chamfer 1-NNA, with its 95 % interval",
    "validation/mmd-cd": "Minimum matching distance, chamfer",
    "validation/cov-cd": "Coverage, chamfer",
    "validation/error": "|1-NNA - 1/2|, chamfer",
    "validation/num_clouds": "Clouds of a validation, each set",
    "validation/seconds": "Seconds of a validation",
    "validation/since_improvement": "Validations without an improvement",
}
BEST = {"validation/1nna-cd": 0.5, "validation/cov-cd": 1.0}
FRACTIONS = ("1nna", "cov")  # beginnings of what is shown in per cent
FIRST = ("loss", "validation", "branching")  # sections; the others follow by name, those of single keys last
REST = "training"

_NUMBERED = re.compile(r"(?P<family>.+)_(?P<number>\d{1,6})")


@dataclass(frozen=True)
class Records:
    """What metrics.jsonl says.

    Args:
        rows: {name: number} by step, the last of each step, in order.
        damaged: lines that are no record.
    """

    rows: Mapping[int, Mapping[str, float]]
    damaged: int

    @property
    def names(self) -> list[str]:
        """All names, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    @property
    def not_finite(self) -> int:
        """How many values are NaN or infinite."""
        return sum(not math.isfinite(value) for row in self.rows.values() for value in row.values())


def read_records(path: Path) -> Records:
    """Read metrics.jsonl; a line that is no record is counted and left out, and a missing file has none."""
    rows: dict[int, dict[str, float]] = {}
    damaged = 0
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        step = record.pop("step", None) if isinstance(record, dict) else None
        if type(step) is not int or abs(step) > MAX_STEP:
            damaged += bool(line.strip())
            continue
        rows.setdefault(step, {}).update(_numbers(record))
    return Records(dict(sorted(rows.items())), damaged)


def charts(records: Records) -> list[dict[str, Any]]:
    """Every name of the records in one chart, for the page.

    K/low and K/high are the interval of K; a family X_0, X_1, ... and names of three parts or more that differ in the
    last share a chart; all others have their own.

    Returns:
        {"key", "title", "section", "log", "percent", "best", "ordered", "curves"} each; a curve is
        {"name", "x", "y", "low", "high"}, where x are steps, y numbers or None, and low and high None or like y.
    """
    names = records.names
    bands = {name for name in names if {f"{name}/low", f"{name}/high"} <= set(names)}
    ends = {f"{name}/{end}" for name in bands for end in ("low", "high")}
    families: dict[str, list[str]] = {}
    for name in names:
        if name not in ends:
            families.setdefault(_family(name), []).append(name)
    found = [_chart(key, members, bands, records) for key, members in families.items()]
    return sorted(found, key=lambda chart: (_rank(chart["section"]), _natural(chart["key"])))


def thinned(values: Sequence[float], limit: int = MAX_POINTS) -> list[int]:
    """Positions of at most `limit` of a curve's values: its ends, and the extremes of equal parts between them.

    So no peak is lost, which every n-th value would do. Values that are not finite are no extremes.
    """
    count = len(values)
    if count <= limit:
        return list(range(count))
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    low, high = np.where(finite, array, np.inf), np.where(finite, array, -np.inf)
    edges = np.linspace(1, count - 1, (limit - 2) // 2 + 1).astype(int)
    kept = {0, count - 1}
    for start, stop in pairwise(edges):
        kept |= {start + int(low[start:stop].argmin()), start + int(high[start:stop].argmax())}
    return sorted(kept)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record; one that no float can hold is infinite."""
    numbers = {}
    for name, value in record.items():
        if type(value) in (int, float):
            try:
                numbers[name] = float(value)
            except OverflowError:
                numbers[name] = math.inf
    return numbers


def _family(name: str) -> str:
    """What a chart of this name is called."""
    if numbered := _NUMBERED.fullmatch(name):
        return numbered["family"]
    parent, _, _ = name.rpartition("/")
    return parent if "/" in parent else name


def _chart(key: str, members: list[str], bands: set[str], records: Records) -> dict[str, Any]:
    ordered = len(members) > 1 and all(_order(name) is not None for name in members)
    if ordered:
        members = sorted(members, key=lambda name: _order(name) or 0.0)
    curves = [_curve(name, name in bands, records) for name in members]
    section = _section(key, records.names)
    finite = [value for curve in curves for value in (*curve["y"], *(curve["low"] or ())) if value is not None]
    return {
        "key": key,
        "title": TITLES.get(key, key),
        "section": section,
        "log": section != REST and bool(finite) and min(finite) > 0 and max(finite) > WIDE * min(finite),
        "percent": key.rpartition("/")[2].startswith(FRACTIONS),
        "best": BEST.get(key),
        "ordered": ordered,
        "curves": curves,
    }


def _curve(name: str, has_band: bool, records: Records) -> dict[str, Any]:
    rows = [(step, row) for step, row in records.rows.items() if name in row]
    kept = [rows[at] for at in thinned([row[name] for _, row in rows])]

    def column(key: str) -> list[float | None]:
        return [_or_none(row.get(key)) for _, row in kept]

    return {
        "name": name,
        "x": [step for step, _ in kept],
        "y": column(name),
        "low": column(f"{name}/low") if has_band else None,
        "high": column(f"{name}/high") if has_band else None,
    }


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _order(name: str) -> float | None:
    """Where a curve stands in its family: its number, or the lower end of its range "low..high"."""
    if numbered := _NUMBERED.fullmatch(name):
        return float(numbered["number"])
    low, dots, _ = name.rpartition("/")[2].partition("..")
    try:
        return float(low) if dots else None
    except ValueError:
        return None


def _section(key: str, names: Iterable[str]) -> str:
    head, slash, _ = key.partition("/")
    return head if slash or any(name.startswith((f"{head}/", f"{head}_")) for name in names if name != head) else REST


def _rank(section: str) -> tuple[int, str]:
    if section in FIRST:
        return FIRST.index(section), section
    return len(FIRST) + (section == REST), section


def _natural(key: str) -> tuple[int, str]:
    """Known charts in the order of their titles' table, then the others by name."""
    known = list(TITLES)
    return (known.index(key), key) if key in TITLES else (len(known), key)
