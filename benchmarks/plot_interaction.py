"""Draw interaction.csv, time and memory against N: python benchmarks/plot_interaction.py

Solid lines are forward and backward, dotted lines forward alone. One column for the fixed radius and one for the fixed
number of neighbours; the unit is one cloud, because the largest size is measured with one cloud and the others with 4.
Writes docs/pictures/interaction.png.
"""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LABELS = {"seconds": "seconds a cloud", "mib": "MiB a cloud, beyond the arguments"}
STYLES = {"forward": ":", "forward+backward": "-"}


def lines_of(rows: list[dict[str, str]], at: str, name: str) -> dict[str, list[tuple[float, float]]]:
    """By method, (N, value a cloud) of one pass."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["method"], [])
        if row["status"] == "ok" and row["at"] == at and row["pass"] == name.partition(" ")[0]:
            value = float(row[name.partition(" ")[2]]) / float(row["clouds"])
            lines[row["method"]].append((float(row["points"]), value))
    return lines


def main() -> None:
    """Draw four panels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path(__file__).with_name("interaction.csv"))
    parser.add_argument("--output", type=Path, default=PICTURES / "interaction.png")
    options = parser.parse_args()
    with options.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(dict.fromkeys(row["at"] for row in rows))
    figure = Figure(figsize=(5.5 * len(columns), 7.5))
    panels = figure.subplots(2, len(columns), sharex=True, squeeze=False)
    for quantity, panel_row in zip(LABELS, panels, strict=True):
        for at, panel in zip(columns, panel_row, strict=True):
            for name, style in STYLES.items():
                lines = lines_of(rows, at, f"{name} {quantity}")
                for index, (method, line) in enumerate(lines.items()):
                    if line:
                        label = method if style == "-" else None
                        panel.plot(*zip(*line, strict=True), style, color=f"C{index}", marker="o", ms=3, label=label)
            panel.set(xscale="log", yscale="log", ylabel=LABELS[quantity], title=at if quantity == "seconds" else "")
            panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("N")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(rows[0]["hardware"], fontsize=9)
    figure.tight_layout()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=110)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
