"""Tables of the page, as html: every string that comes from a file is escaped here."""

import html
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfcdm.evaluation import Protocol
from mfcdm.report.records import FRACTIONS, Records
from mfcdm.wording import spelled

ABOUT = ("sizes", "files", "protocol", "details", "versions")
VALIDATED = ("1nna-cd", "mmd-cd", "cov-cd")


def text(value: Any) -> str:
    """A value as text that a browser takes for nothing else."""
    return html.escape(value if isinstance(value, str) else json.dumps(value, default=str), quote=True)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), kind: str = "") -> str:
    """A table of cells that are html already; the first cell of a row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}">'
        f"{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div>"
    )


def configuration(config: Mapping[str, Any]) -> str:
    """The resolved configuration, a group a table, that the page's search field filters."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            groups[str(key)] = dict(_leaves(value, f"{key}."))
        else:
            groups.setdefault("run", {})[str(key)] = value
    return "".join(
        f'<details open class="group"><summary>{text(name)}</summary>'
        + table([[f"<code>{text(key)}</code>", f"<code>{text(value)}</code>"] for key, value in leaves.items()])
        + "</details>"
        for name, leaves in groups.items()
    )


def environment(about: Mapping[str, Any]) -> str:
    """Versions, hardware and git commit."""
    shown = {key: value for key, value in about.items() if key != "command"}
    if isinstance(about.get("command"), list):
        shown["command"] = shlex.join(map(str, about["command"]))
    return table([[text(str(key)), f"<code>{text(value)}</code>"] for key, value in shown.items()])


def commands(folder: Path) -> str:
    """How to go on with a run, draw from it, and make its page again."""
    model = spelled("checkpoint", folder / "checkpoints" / "last")
    more, scored = (spelled("output", folder / name) for name in ("more", "scored"))
    lines = {
        "go on training": f"python train.py {spelled('resume', folder)}",
        "draw clouds": f"python sample.py {model} num_clouds=16 {more}",
        "draw and score": f"python sample.py {model} num_clouds=100 evaluate=REFERENCE.npz {scored}",
        "make this page again": f"python -m mfcdm.report {shlex.quote(str(folder))}",
    }
    return table([[name, f"<code class=command>{text(line)}</code>"] for name, line in lines.items()])


def validations(records: Records, config: Mapping[str, Any]) -> str:
    """The scores of training's own validations and how they come about; "" where there are none."""
    found = [(step, row) for step, row in records.rows.items() if any(f"validation/{key}" in row for key in VALIDATED)]
    if not found:
        return ""
    last = found[-1][1]
    options, sampler, levels = (_group(config, name) for name in ("validation", "sampler", "subdivision"))
    kind = str(sampler.get("_target_", "")).rpartition(".")[2]
    count = last.get("validation/num_clouds", options.get("num_clouds", "?"))
    count = int(count) if isinstance(count, float) and count.is_integer() else count
    how = (
        f"{count} generated clouds ({kind or 'sampler'}, {options.get('num_steps', '?')} steps, averaged weights) "
        f"against {count} clouds of the split val, at {levels.get('num_particles', '?')} points, "
        "by the chamfer distance over full sets; 95 % intervals. For 1-NNA 50 % is best."
    )
    rows = []
    for step, row in found:
        cells = [
            _value(key, row.get(f"validation/{key}"))
            + _span(key, row.get(f"validation/{key}/low"), row.get(f"validation/{key}/high"), " ({})")
            for key in VALIDATED
        ]
        rows.append([str(step), *cells])
    return f"<h2>While training</h2><p>{text(how)}</p>" + table(rows, ["step", *VALIDATED], "numbers")


def evaluation(name: str, report: Mapping[str, Any]) -> str:
    """One report.json: the protocol, the scores with intervals and noise floors, notes, files and versions.

    Args:
        name: of the file.
        report: what it holds.

    Raises:
        ValueError: if it is no report.
    """
    scores, protocol = report.get("scores"), report.get("protocol")
    if not isinstance(scores, Mapping) or not isinstance(protocol, Mapping):
        raise ValueError("it has no scores and no protocol")
    rows = []
    for key, score in scores.items():
        if not isinstance(score, Mapping):
            raise ValueError(f"its score {key} is damaged")
        interval = _span(key, score.get("low"), score.get("high"))
        floor = _span(key, score.get("floor_low"), score.get("floor_high"))
        value, best = (_value(key, score.get(name)) for name in ("value", "best"))
        rows.append([text(key), value, interval, floor, best, _value("", score.get("p_value"))])
    notes = report.get("notes")
    listed = "".join(f"<li>{text(note)}</li>" for note in notes) if isinstance(notes, list) else ""
    about = [[key, f"<code>{text(report[key])}</code>"] for key in ABOUT if report.get(key)]
    return (
        f"<h2>{text(name)}</h2><p>{text(_in_words(protocol))}</p>"
        + table(rows, ["score", "value", "interval", "noise floor", "best", "p"], "numbers")
        + (f"<ul>{listed}</ul>" if listed else "")
        + f"<details><summary>files, protocol and versions</summary>{table(about)}</details>"
    )


def _in_words(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line; what another version wrote is shown as it is."""
    try:
        return f"Protocol {Protocol(**protocol).in_words()}."
    except (TypeError, ValueError):
        return f"Protocol {json.dumps(protocol, default=str)}."


def _leaves(group: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything below a group."""
    for key, value in group.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = config.get(name)
    return group if isinstance(group, Mapping) else {}


def _value(key: str, value: Any) -> str:
    if type(value) not in (int, float):
        return "-"
    return f"{100 * value:.1f} %" if key.startswith(FRACTIONS) else f"{value:.4g}"


def _span(key: str, low: Any, high: Any, form: str = "{}") -> str:
    if type(low) not in (int, float) or type(high) not in (int, float):
        return ""
    return f"<span class=span>{form.format(f'{_value(key, low)} to {_value(key, high)}')}</span>"
