"""python -m mfcdm.commands.replay RUN: the steps of refused.json once more, cloud by cloud."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from torch import nn

from mfcdm import checkpoint
from mfcdm.commands.assembly import Material, Start, find_start, read_material, read_options
from mfcdm.commands.console import Arguments, say, stop, warnings_as_lines
from mfcdm.training.engine import fabric_of
from mfcdm.training.processes import ALONE
from mfcdm.training.refusals import REFUSED, RefusedStep, read_refused

ABOUT = """Repeat the steps that a run did not apply for their non-finite loss: the same clouds, level, times and noise,
with the weights of the newest checkpoint, or the first ones where there is none. Nothing is written."""


def main(given: Sequence[str] | None = None) -> None:
    """Replay as the command line says; a mistake ends in one sentence and exit code 2."""
    parser = Arguments(prog="python -m mfcdm.commands.replay", description=ABOUT)
    parser.add_argument("run", metavar="RUN", type=Path, help=f"the folder of a training run, with its {REFUSED}")
    parser.add_argument("--trust", action="store_true", help="also build classes outside mfcdm that it names")
    options = parser.parse_args(given)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    try:
        with warnings_as_lines():
            for line in replayed(options.run, options.trust):
                console.print(line)
    except OSError as error:
        stop(f"{error.filename or options.run}: {error.strerror}" if error.strerror else str(error))
    except (ValueError, MemoryError) as error:
        stop(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C", 130)


def replayed(folder: Path, trust: bool) -> Iterator[str]:
    """What became of each refused step, line by line.

    Args:
        folder: of the run.
        trust: as in `build`.

    Raises:
        FileNotFoundError: if there is no refused.json, configuration or data set.
        ValueError: if one of them is damaged, or the data set or the seed is not that of the run.
    """
    seed, steps = read_refused(folder)
    newest = checkpoint.newest(folder / "checkpoints")
    config = checkpoint.read_config(folder if newest is None else newest)
    start = replace(find_start(config | {"resume": None}, folder / "replay"), trust=trust)
    if seed != config["seed"]:
        raise ValueError(f"{folder / REFUSED} is of seed {seed}, but the run's configuration of seed {config['seed']}")
    material = read_material(replace(start, config=config | {"validation": {"num_clouds": 0}}))
    network = material.parts.network
    if newest is not None:
        checkpoint.load_weights(network, checkpoint.load_training(newest).under("network."), newest)
    say(f"with the weights of {newest or 'the first step, as there is no checkpoint'}")
    for step in steps:
        yield from _replayed(step, material, start)


def _replayed(step: RefusedStep, material: Material, start: Start) -> Iterator[str]:
    """One step: a line for all, and one a cloud."""
    batches, objective = material.batches, material.parts.objective
    if batches.indices(step.step - 1).tolist() != list(step.indices):
        raise ValueError(f"step {step.step} took other clouds: the data set is not that of the run any more")
    options, _ = read_options(start.config)
    fabric = fabric_of(replace(options.machine, devices=None, num_nodes=None))
    module = fabric.setup_module(material.parts.network)
    batch, generator = batches.at(step.step - 1), batches.generator(step.step - 1)
    rows = ALONE.rows(generator, len(batch))
    lengths, labels = (None if each is None else each.to(fabric.device) for each in (batch.lengths, batch.labels))
    draw = objective.draw(batch.x.to(fabric.device), lengths, rows)
    module.zero_grad(set_to_none=True)
    try:
        loss = objective.loss(module, draw, labels, ALONE.rows(rows.generator, len(batch)))
    except ValueError as error:  # the network refuses a number that has overflowed inside it
        yield f"{step}: the network breaks down again: {error}"
        return
    fabric.backward(loss.total)
    norm = float(nn.utils.get_total_norm([weight.grad for weight in module.parameters() if weight.grad is not None]))
    yield f"{step}: gradient norm {step.gradient_norm:.5g} then, {norm:.5g} now"
    yield "  cloud         t    loss then     loss now  largest coordinate"
    now = loss.score_matching.tolist()
    then = step.loss or [math.nan] * len(now)
    reach = batch.x.abs().flatten(1).amax(dim=1).tolist()
    for index, t, *losses, largest in zip(step.indices, step.t, then, now, reach, strict=True):
        yield f"{index:7d}  {t:8.6f}  {losses[0]:11.5g}  {losses[1]:11.5g}  {largest:18.5g}"


if __name__ == "__main__":
    main()
