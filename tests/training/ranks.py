"""What two processes find when they train together: `python -m tests.training.ranks FOLDER`, with LOCAL_RANK set.

Each leaves FOLDER/<rank>/<name>.safetensors, its weights after a run, and FOLDER/<rank>/facts.json.
"""

import itertools
import json
import math
import os
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from mfcdm import checkpoint
from mfcdm.branching import Learned
from mfcdm.datasets import Clouds
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Langevin
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Trainer
from mfcdm.training.json_lines import JsonLines
from mfcdm.training.options import TrainerOptions
from mfcdm.training.validation import Validation, ValidationOptions
from tests.laws import generator, three_shapes
from tests.training.runs import CONFIG, LEVELS, NETWORK, SDE, UNCHANGED, state

STEPS, CUT = 20, 9
RULE = {"width": 8, "depth": 1, "num_moments": 2, "num_scales": 2}
CONFIGS = {"branching": {"_target_": "mfcdm.branching.Learned", **RULE}}
# In float64, as torch's Muon rounds to bfloat16 on its way: what float32 adds differently would there be a whole unit.
EXACT = {"precision": "64-true"}
VARIANTS = {
    "muon": {"optimizer": "muon", **EXACT},
    "muon in parts": {"optimizer": "muon", "accumulate": 2, **EXACT},
    "adamw": {"optimizer": "adamw", **EXACT},
    "adamw in parts": {"optimizer": "adamw", "accumulate": 2, **EXACT},
    # without the Jacobian, a difference of outputs divided by 0.02, which makes 50 times of their rounding
    "adamw in float32": {"optimizer": "adamw", "jacobian_weight": 0.0},
}


def build(folder: Path, loggers=(), poison=(), jacobian_weight=0.1, **options) -> Trainer:
    """A run with everything that a share of a batch could change: lengths, classes, a branching, the Jacobian."""
    torch.manual_seed(0)
    x = three_shapes().sample(13, 20, generator(0), dtype=torch.float32)  # an epoch ends inside a batch
    x[list(poison)] = torch.inf
    clouds = Clouds(x, torch.tensor([20, 12, 14, 16, 18] * 3)[:13], torch.arange(13) % 3)
    network, rule = ScoreNetwork(**NETWORK, num_classes=3), Learned(**RULE)
    held_out = Clouds(three_shapes().sample(7, 16, generator(7), dtype=torch.float32), labels=torch.arange(7) % 3)
    how = ValidationOptions(every=0.5, num_clouds=7, num_steps=3)  # seven clouds for two processes
    defaults = {"max_steps": STEPS, "batch_size": 8, "warmup_steps": 2, "accelerator": "cpu", "checkpoint_every": 10**6}
    options = TrainerOptions(**(defaults | options))
    return Trainer(
        network,
        MeanFieldScoreMatching(SDE, LEVELS, jacobian_weight=jacobian_weight, label_dropout=0.3),
        Batches(clouds, options.batch_size, 0),
        UNCHANGED,
        options,
        CONFIG | CONFIGS,
        folder,
        loggers=loggers,
        validation=Validation(held_out, UNCHANGED, SDE, Langevin(), LEVELS, rule, how, batch_size=3),
        branching=rule,
    )


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    """All that a run has learned and remembers."""
    averaged = {f"averaged.{name}": tensor for name, tensor in run.branching.weights().items()}
    return {name: tensor.contiguous() for name, tensor in (state(run) | run.branching.tensors() | averaged).items()}


def recorded(folder: Path, first: bool = True, **options) -> tuple[Trainer, list[dict]]:
    """A finished run and its records."""
    folder.mkdir(parents=True, exist_ok=True)
    loggers = [JsonLines(folder / "metrics.jsonl")] if first else []
    run = build(folder, loggers, log_every=5, **options)
    run.run()
    run.loggers.close()
    return run, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] if first else []


def stopped_by_the_second(folder: Path, rank: int) -> Trainer:
    """A run that a signal stops, which the second process alone gets."""
    run = build(folder, devices=2, **VARIANTS["muon"])
    run.run(lambda progress: run.stop() if rank == 1 and progress.step == CUT else None)
    return run


def bounded_by_minutes(folder: Path, rank: int) -> dict:
    """A run of six seconds on the first process' clock; the second one's nearly stands still."""
    run = build(folder, devices=2, max_steps=None, max_minutes=0.1)
    run.judge.validation = None
    ticks = itertools.count()
    run.clock = lambda: next(ticks) * (1.0 if rank == 0 else 1e-6)
    run.run()
    return {"step": run.step, "seconds": run.seconds}


def refused(folder: Path, rank: int) -> dict:
    """A cloud that overflows is in one process' part at a time."""
    run = build(folder, devices=2, poison=[2], max_steps=6)
    run.judge.validation = None
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        run.run()
    hit = [2 in run.batches.indices(step) for step in range(6)]
    finite = all(bool(tensor.isfinite().all()) for tensor in weights(run).values())
    return {"refused": run.refusals.in_all, "expected": sum(hit), "finite": finite}


def full_disk(folder: Path, rank: int) -> dict:
    """The first process cannot write its last checkpoint."""
    run = build(folder, devices=2, max_steps=2)
    run.judge.validation = None
    (folder / "checkpoints").parent.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        (folder / "checkpoints").write_text("no folder")
    return {"error": failure(run.run)}


def failing(folder: Path, rank: int) -> dict:
    """The second process alone cannot evaluate its network, or draw."""
    run = build(folder, devices=2)
    facts = {}
    handle = run.raw.register_forward_pre_hook(lambda *_: fail(rank == 1, run.raw.training))
    facts["forward"] = failure(run.run)
    handle.remove()
    broken = run.raw.register_forward_hook(lambda _, __, out: out * math.nan if rank == 1 else out)
    facts["draw"] = failure(lambda: run.judge.validation(run.raw))
    broken.remove()
    facts["both shared"] = run.processes.shared is not None
    return facts


def fail(really: bool, training: bool) -> None:
    if really and training:
        raise ValueError("out of luck")


def failure(act) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path) -> None:
    facts, rank = {}, int(os.environ["LOCAL_RANK"])
    (folder / str(rank)).mkdir()
    for name, options in VARIANTS.items():
        run, records = recorded(folder / name, first=rank == 0, devices=2, **options)
        save_file(weights(run), folder / str(rank) / f"{name}.safetensors")
        facts[name] = {"best": run.judge.best, "records": records}
    facts["stopped"] = stopped_by_the_second(folder / "stopped", rank).step
    for scene in (bounded_by_minutes, refused, full_disk, failing):
        facts[scene.__name__] = scene(folder / scene.__name__, rank)
    whole = checkpoint.newest(folder / "stopped" / "checkpoints")
    again = build(folder / "again", devices=2, accumulate=4, **VARIANTS["muon"])
    again.resume(whole)
    again.run()
    save_file(weights(again), folder / str(rank) / "resumed.safetensors")
    (folder / str(rank) / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
