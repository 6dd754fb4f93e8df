"""python -m mfcdm.commands.export: a checkpoint becomes one file to give away, with a model card beside it."""

from collections.abc import Sequence
from pathlib import Path

from mfcdm.checkpoint_export import export, model_card
from mfcdm.commands.console import Arguments, say, stop

ABOUT = """Write a checkpoint's averaged weights, configuration and normalisation into one file, which sample.py takes
for a checkpoint, and a model card in Markdown beside it. A card that is there already stays as it is."""


def main(given: Sequence[str] | None = None) -> None:
    """Export as the command line says; a mistake ends in one sentence and exit code 2."""
    made = Arguments("python -m mfcdm.commands.export", description=ABOUT)
    made.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="its folder, RUN/checkpoints/last")
    made.add_argument("file", type=Path, metavar="FILE.safetensors", help="to write")
    made.add_argument("--scores", type=Path, metavar="report.json", help="of evaluate.py, for the card")
    made.add_argument("--trust", action="store_true", help="also build a network of a class outside mfcdm")
    options = made.parse_args(given)
    try:
        write(options.checkpoint, options.file, options.scores, options.trust)
    except OSError as error:
        stop(f"{error.filename or options.file}: {error.strerror}" if error.strerror else str(error))
    except (ValueError, MemoryError) as error:
        stop(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C", 130)


def write(source: Path, file: Path, scores: Path | None, trust: bool) -> None:
    """Write the file and its card.

    Raises:
        FileNotFoundError: if the checkpoint, one of its files or the report is missing.
        ValueError: if one of them is damaged, or the file has another ending.
        OSError: if nothing can be written there.
    """
    text = model_card(source, scores, name=file.name, trust=trust)  # first, so that a mistake leaves nothing
    export(source, file, trust=trust)
    card, kept = file.with_suffix(".md"), ""
    try:
        with card.open("x") as stream:  # somebody may have written more into it
            stream.write(text)
    except FileExistsError:
        kept = ", which was there already and stays as it is"
    say(f"{file}: {file.stat().st_size / 2**20:.1f} MiB; its card: {card}{kept}")


if __name__ == "__main__":
    main()
