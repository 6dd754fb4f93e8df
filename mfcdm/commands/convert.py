"""python -m mfcdm.datasets.convert: clouds of any format become a mapped archive."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from mfcdm.commands.console import Arguments, Meter, Pace, say, stop
from mfcdm.datasets.mapped import MappedArchive
from mfcdm.datasets.mapped_index import DTYPES, Index, read_index
from mfcdm.datasets.mapped_writing import Layout, Observer, write_archive
from mfcdm.datasets.sources import FORMATS, Source, portions
from mfcdm.wording import counted

ABOUT = """Write clouds of any format that mfcdm reads into a folder that training maps into memory.

A file is taken for an archive (npz, npy, h5), a folder for one of mesh and point files (ply, obj, off, stl, xyz, npy);
--format names the public data sets. The splits train, val and test are kept, with the classes."""


def main(given: Sequence[str] | None = None) -> None:
    """Convert as the command line says; a mistake ends in one sentence and exit code 2."""
    options = parser().parse_args(given)
    try:
        if options.check:
            check(options.source)
            return
        if options.output is None:
            raise ValueError("give a folder to write to: SOURCE OUTPUT")
        convert(options)
    except OSError as error:
        stop(f"{error.filename or options.output}: {error.strerror}" if error.strerror else str(error))
    except (ValueError, MemoryError) as error:
        stop(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        stop(f"stopped by Ctrl-C; nothing is left in {options.output}", 130)


def convert(options: argparse.Namespace) -> None:
    """Write the archive.

    Raises:
        FileNotFoundError: if the source is not there.
        FileExistsError: if the output is.
        ValueError: if the source or one of its clouds cannot be used.
    """
    layout = Layout(options.dtype, options.shard_clouds, options.points, options.seed)
    on_meshes = {} if options.points is None else {"num_points": options.points}
    about = {"category": options.category, "key": options.key, "seed": options.seed, **on_meshes}
    source = Source(options.source, options.format, **about)
    wanted = {"val": options.split_val, "test": options.split_test}
    shares = {name: share for name, share in wanted.items() if share is not None}
    splits = portions(source.splits(), shares, options.seed)
    in_all = sum(len(portion) for portion in splits.values())
    with Meter("converting") as meter:
        index = write_archive(options.output, splits, layout, observer(meter, in_all))
    say(described(options.output, index))


def check(folder: Path) -> None:
    """Compare all files of an archive with their checksums.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if one is damaged.
    """
    index = read_index(folder)
    for name in index.splits:
        MappedArchive(folder, name).check()
    say(f"{described(folder, index)}; every file is as it was written")


def observer(meter: Meter, in_all: int) -> Observer:
    """Shows every cloud."""
    pace, begun, done = Pace(), monotonic(), 0

    def observe(split: str, position: int, size: int) -> None:
        nonlocal done
        done += 1
        speed = pace.add(done, monotonic() - begun)
        meter.show(done / in_all, f"{split} {position} of {size}", (in_all - done) / speed if speed else None)

    return observe


def described(folder: Path, index: Index) -> str:
    """What an archive holds, in a line."""
    splits = ", ".join(f"{counted(split.clouds, 'cloud')} of {name}" for name, split in index.splits.items())
    size = sum(part.bytes for split in index.splits.values() for part in split.files())
    classes = f", {counted(len(index.categories), 'class', 'classes')}" if index.categories else ""
    return f"{folder}: {splits}{classes}, {index.dtype}, {size / 2**20:.1f} MiB"


def parser() -> Arguments:
    """The command line."""
    about = argparse.RawDescriptionHelpFormatter
    made = Arguments("python -m mfcdm.datasets.convert", description=ABOUT, formatter_class=about)
    made.add_argument("source", type=Path, metavar="SOURCE", help="file or folder")
    made.add_argument("output", type=Path, metavar="OUTPUT", nargs="?", help="folder that is not there yet")
    made.add_argument("--format", default="auto", choices=FORMATS)
    made.add_argument("--points", type=int, help="of each cloud: a random subset; on a mesh 2048 unless given")
    made.add_argument("--dtype", default="float32", choices=DTYPES)
    made.add_argument("--shard-clouds", type=int, default=Layout.shard_clouds, help="clouds a file (%(default)s)")
    made.add_argument("--split-val", type=float, metavar="SHARE", help="of train, where there is no split val")
    made.add_argument("--split-test", type=float, metavar="SHARE", help="of train, where there is no split test")
    made.add_argument("--category", nargs="+", help="only these, where the format has categories")
    made.add_argument("--key", help="name of the array in an archive of a foreign layout")
    made.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    made.add_argument("--check", action="store_true", help="compare the archive SOURCE with its checksums")
    return made
