"""Arguments of small runs, their data, and what they leave."""

import json

import numpy as np
import yaml

BARE = ("logger=none", "validation.num_clouds=0")
TINY = (
    "network=tiny",
    "subdivision.num_particles=64",
    "trainer.batch_size=4",
    "trainer.warmup_steps=1",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "sampler.num_steps=6",
    *BARE,
)
SHAPES = ("dataset=shapes", "dataset.num_clouds=6", "dataset.num_points=64", *TINY)
ONE_STEP = (*TINY, "trainer.max_steps=1")
VALIDATED = ("validation.num_clouds=6", "validation.num_steps=4", "validation.every=0.5")
PNG = b"\x89PNG\r\n\x1a\n"


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def points(folder):
    with np.load(folder / "samples.npz") as samples:
        return samples["points"]


def archive(path, **arrays):
    np.savez(path, **arrays)
    return f"dataset.path={path}"


def clouds(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def change_config(folder, group, **entries):
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[group] |= entries
    path.write_text(yaml.safe_dump(config))
