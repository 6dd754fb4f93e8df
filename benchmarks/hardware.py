"""What every benchmark shares: the hardware's name and the csv."""

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def hardware_name() -> str:
    """The accelerator's name, or the processor's with its number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> None:
    """Write the rows; every row repeats the settings and names the hardware and torch, unless it has its own."""
    about = {**settings, "hardware": hardware_name(), "torch": torch.__version__}
    with path.open("w", newline="") as file:
        columns = dict.fromkeys(column for row in rows for column in row)  # earlier rows may know fewer
        writer = csv.DictWriter(file, fieldnames=list(columns | about))
        writer.writeheader()
        writer.writerows({**about, **row} for row in rows)


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]], same: Sequence[str], **settings: Any) -> None:
    """Write the rows behind the csv's earlier ones, less those that agree with a new row in the columns `same`."""
    kept: list[dict[str, Any]] = []
    if path.exists():
        replaced = {tuple(str({**settings, **row}[column]) for column in same) for row in rows}
        with path.open(newline="") as file:
            kept = [
                row for row in csv.DictReader(file) if tuple(row.get(column, "") for column in same) not in replaced
            ]
    write_csv(path, kept + [{**settings, **row} for row in rows])
