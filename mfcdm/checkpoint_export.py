"""A checkpoint to give away: one safetensors file with its configuration in the header, and a model card.

FILE.safetensors
  network.*, branching.*   averaged weights, as in a checkpoint's folder; the second where branching is learned
  header, key "mfcdm"      JSON: format_version, step, mean, std, categories, config

`mfcdm.checkpoint.load` reads it as it reads a folder. It has no training state: it can be sampled from, not resumed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from mfcdm import checkpoint
from mfcdm.atomic import whole
from mfcdm.checkpoint_files import EXPORTED, METADATA, PARTS, Stored
from mfcdm.checkpoint_text import read_plain
from mfcdm.version import __version__

KEPT = ("format_version", "step", "mean", "std", "categories")  # of the state
FRACTIONS = ("1nna", "cov")  # begin the keys of scores that are shown in per cent


def export(source: str | Path, file: str | Path, *, trust: bool = False) -> Path:
    """Write a checkpoint into one file, whole or not at all.

    Args:
        source: folder of the checkpoint, or a file that one was exported to.
        file: to write, ending in .safetensors; one that exists is replaced.
        trust: as in `checkpoint.load`, for a network of the user's own class.

    Returns:
        the file.

    Raises:
        FileNotFoundError: if the checkpoint or one of its files is missing.
        ValueError: if it cannot be loaded, its configuration is not of JSON's types, or the file has another ending.
        OSError: if the file cannot be written.
    """
    source, file = Path(source), Path(file)
    if file.suffix != EXPORTED:
        raise ValueError(f"{file} must end in {EXPORTED}")
    checkpoint.load(source, trust=trust)
    stored = Stored.of(source)
    parts = zip(PARTS, (stored.network, stored.branching), strict=True)
    tensors = {prefix + name: x for prefix, part in parts if part.there() for name, x in part.read().items()}
    about = {key: stored.state[key] for key in KEPT} | {"config": stored.config}
    try:
        text = json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{stored.config_path} cannot be written as JSON: {error}") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(file) as scratch:
            save_file(tensors, scratch, metadata={METADATA: text})
    except SafetensorError as error:  # of the disk's, which it gives its own type
        raise OSError(f"{file}: {error}") from error
    return file


def model_card(
    source: str | Path, scores: str | Path | None = None, *, name: str | None = None, trust: bool = False
) -> str:
    """What a model is, in Markdown, from what its checkpoint and its run's folder say.

    Args:
        source: the checkpoint; what training took is known of the folder of one in its run.
        scores: report.json of an evaluation, or None.
        name: of the exported file, for the commands; None for the source's own.
        trust: as in `checkpoint.load`.

    Raises:
        FileNotFoundError: if the checkpoint or the report is missing.
        ValueError: if one of them is damaged.
    """
    source = Path(source)
    model, stored = checkpoint.load(source, trust=trust), Stored.of(source)
    title = str(model.config.get("name") or source.resolve().stem)
    dim, most = len(model.normalization.mean), model.subdivision.cardinalities[-1]
    sections = [
        f"# {_cell(title)}",
        f"A generative model of point clouds in {dim} dimensions by mean-field chaos diffusion, for mfcdm "
        f"{__version__}. It draws clouds of any number of points; it was trained with up to {most:,}.",
        _table(("", ""), [*_about(model), *_cost(source, stored.state)]),
        *([] if scores is None else ["## Scores", *_scores(Path(scores))]),
        "## Draw clouds",
        f"    python sample.py checkpoint={name or source} num_clouds=16 num_particles={most} output=drawn",
        "The file holds weights and plain values. Reading it runs nothing, and builds only classes of mfcdm.",
        "## Limits",
        "\n".join(f"* {sentence}" for sentence in _limits(model, scores is not None)),
    ]
    return "\n\n".join(sections) + "\n"


def _about(model: checkpoint.Checkpoint) -> Iterator[tuple[str, str]]:
    data = model.config.get("dataset")
    if isinstance(data, Mapping):
        path = data.get("path") or data.get("root")
        where = f", {Path(str(path)).name}" if path else ""  # its folder is nobody else's business
        yield "data set", f"{_class(data)}{where}, split {data.get('split', 'train')}"
    if model.categories:
        yield "classes", ", ".join(model.categories)
    yield "normalization", f"{model.config.get('normalization', 'global')}, std {float(model.normalization.std):.4g}"
    yield "network", f"{_class(model.config['network'])}, {_size(model.network):,} parameters"
    levels = ", ".join(f"{count:,}" for count in model.subdivision.cardinalities)
    yield "particles by level", levels
    learned = isinstance(model.branching, nn.Module)
    size = f", {_size(model.branching):,} parameters" if isinstance(model.branching, nn.Module) else ""
    yield "branching", f"{_class(model.config['branching'])}{size}{', learned' if learned else ''}"
    yield "forward process", str(model.sde)


def _cost(source: Path, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    training = state.get("training")
    seconds = training.get("seconds") if isinstance(training, dict) else None
    minutes = f", {seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else ""
    yield "training", f"{state['step']:,} {'step' if state['step'] == 1 else 'steps'}{minutes}"
    folder = source.resolve().parent  # of a run, where it is called checkpoints
    path = folder.parent / "environment.json"
    if folder.name != "checkpoints" or not path.is_file():
        return
    about = read_plain(path, json.loads)
    if isinstance(about, dict):
        yield (
            "trained on",
            ", ".join(
                f"{what}{about[key]}{unit}"
                for key, what, unit in (("device", "", ""), ("threads", "", " threads"), ("torch", "torch ", ""))
                if about.get(key) is not None
            ),
        )


def _scores(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    report = read_plain(path, json.loads)
    try:
        protocol, sizes = report["protocol"], report["sizes"]
        rows = [(key, *_numbers(key, score)) for key, score in report["scores"].items()]
        yield _table(("score", "value", "interval", "two real samples", "best"), rows)
        yield (
            f"Protocol {_cell(protocol['name'])}: {sizes['clouds']} against {sizes['clouds']} clouds of "
            f"{protocol['num_points']} points at most, split {_cell(protocol['split'])} of the reference, "
            f"normalization {_cell(protocol['normalization'])}, seed {protocol['seed']}. "
            + " ".join(f"{_cell(note)}." for note in report.get("notes", ()))
        ).strip()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a report of evaluate.py: {type(error).__name__} {error}") from error


def _numbers(key: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    """Value, interval, floor and best of a score, as a person reads them."""

    def number(value: float) -> str:
        return f"{100 * value:.1f} %" if key.startswith(FRACTIONS) else f"{value:.4g}"

    def span(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f"{number(low)} to {number(high)}"

    floor = span(score["floor_low"], score["floor_high"])
    return number(score["value"]), span(score["low"], score["high"]), floor, number(score["best"])


def _limits(model: checkpoint.Checkpoint, scored: bool) -> Iterator[str]:
    most = model.subdivision.cardinalities[-1]
    yield "It knows the shapes of its data set, at their size and in their pose, and no others."
    yield f"Clouds of more than {most:,} points are denser than any that it was trained with."
    yield "It draws points, not surfaces: no normals, no colours, no triangles."
    if not getattr(model.network, "num_classes", 0):
        yield "It takes no class to draw from."
    yield (
        "The scores hold for their protocol alone."
        if scored
        else "It comes without scores; `python evaluate.py` makes them."
    )
    yield "There is no training state: it can be sampled from, not resumed."


def _class(config: Mapping[str, Any]) -> str:
    return str(config.get("_target_", "")).removeprefix("mfcdm.").rpartition(".")[2]


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: Any) -> str:
    """Text that stays in its place: on one line, and with nothing in it that Markdown or a browser would follow."""
    line = " ".join(str(text).split())
    for mark, written in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "&#124;"),
        ("`", "&#96;"),
        ("[", "&#91;"),
        ("!", "&#33;"),
    ):
        line = line.replace(mark, written)
    return line
