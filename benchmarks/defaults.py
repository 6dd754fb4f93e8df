"""What each default has been compared with, from the rows of ablation.py: python benchmarks/defaults.py

Prints the group "defaults" of ablation.csv as a Markdown table: for every variant and data set the paired differences
to the default in percent with their 95 % intervals over clouds; lower is better. Chance from run to run is wider than
these intervals: a difference is bold where it also exceeds that of "another seed", which is the default from other
first weights and batches.
"""

import argparse
import csv
from pathlib import Path

MEASURES = {"fine_error": "error of x_0", "surface": "its surface", "redrawn": "redrawn"}
CHANCE = "another seed"
Row = dict[str, str]


def by_data(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Rows of the group "defaults", by data set and variant."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["group"] == "defaults":
            data = "headwear" if "headwear" in row["base"] else "embedded shapes"
            found.setdefault(data, {})[row["variant"]] = row
    return found


def verdict(row: Row, chance: Row | None, measure: str) -> str:
    """ "better", "worse" or "", where the difference is within its interval or that of another seed."""
    difference, interval = float(row[f"{measure}_percent"]), float(row[f"{measure}_interval"])
    noise = abs(float(chance[f"{measure}_percent"])) if chance else 0.0
    if abs(difference) <= max(interval, noise):
        return ""
    return "better" if difference < 0 else "worse"


def cell(row: Row | None, chance: Row | None, measure: str) -> str:
    """A difference with its interval, bold where it is decided."""
    if row is None:
        return "not measured"
    text = f"{float(row[f'{measure}_percent']):+.1f} ± {float(row[f'{measure}_interval']):.1f}"
    return f"**{text}**" if verdict(row, chance, measure) else text


def table(rows: list[Row]) -> list[str]:
    """The lines of the Markdown table."""
    found = by_data(rows)
    variants = dict.fromkeys(name for own in found.values() for name in own if name != "default")
    heads = [f"{data}: {title}" if n == 0 else title for data in found for n, title in enumerate(MEASURES.values())]
    lines = ["| instead of the default | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in variants:
        cells = [cell(own.get(name), own.get(CHANCE), measure) for own in found.values() for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("ablation.csv"))
    with parser.parse_args().rows.open(newline="") as file:
        print("\n".join(table(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
