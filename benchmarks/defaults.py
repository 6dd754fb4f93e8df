"""What each default has been compared with, from the rows of ablation.py: python benchmarks/defaults.py

Prints the group "defaults" of ablation.csv as a Markdown table: for every variant and data set the paired differences
to the default in percent with their 95 % intervals over clouds; lower is better. Chance from run to run is wider than
these intervals: a difference is bold where it also exceeds what "another seed", the default from other first weights
and batches, has on either data set.

Then the group "candidates" as a second table: what clouds that are drawn from nothing score, a mean over the seeds.
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


def by_chance(found: dict[str, dict[str, Row]]) -> dict[str, float]:
    """The largest difference, in percent, that another seed makes to each measure."""
    rows = [own[CHANCE] for own in found.values() if CHANCE in own]
    return {measure: max((abs(float(row[f"{measure}_percent"])) for row in rows), default=0.0) for measure in MEASURES}


def cell(row: Row | None, chance: float, measure: str) -> str:
    """A difference with its interval, bold where it is beyond both that and chance."""
    if row is None:
        return "not measured"
    difference, interval = float(row[f"{measure}_percent"]), float(row[f"{measure}_interval"])
    text = f"{difference:+.1f} ± {interval:.1f}"
    return f"**{text}**" if abs(difference) > max(interval, chance) else text


def table(rows: list[Row]) -> list[str]:
    """The lines of the Markdown table."""
    found = by_data(rows)
    chance = by_chance(found)
    variants = dict.fromkeys(name for own in found.values() for name in own if name != "default")
    heads = [f"{data}: {title}" if n == 0 else title for data in found for n, title in enumerate(MEASURES.values())]
    lines = ["| instead of the default | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in variants:
        cells = [cell(own.get(name), chance[measure], measure) for own in found.values() for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def drawn(rows: list[Row]) -> list[str]:
    """The lines of the table of the group "candidates"."""
    lines = ["| | steps | energy distance | chamfer 1-NNA, % | to the surface of the nearest training shape, % |"]
    lines.append("|---" * 5 + "|")
    for row in rows:
        if row["group"] == "candidates":
            scores = f"{float(row['energy']):.2f} | {float(row['1nna-cd']):.1f} | {float(row['generated']):.2f}"
            lines.append(f"| {row['variant']} | {int(row['steps']):,} | {scores} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("ablation.csv"))
    with parser.parse_args().rows.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print("\n".join([*table(rows), "", *drawn(rows)]))


if __name__ == "__main__":
    main()
