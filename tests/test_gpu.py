"""The commands on a GPU: `make test-gpu`."""

import json

import numpy as np
import pytest
import torch

SHORT = (
    "network=tiny",
    "dataset.num_clouds=8",
    "dataset.num_points=512",
    "subdivision.num_particles=512",
    "trainer.max_steps=12",
    "trainer.log_every=4",
    "trainer.batch_size=4",
    "validation.num_clouds=4",
    "validation.num_steps=8",
    "num_pictured=0",
    "logger=none",
)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.fixture(scope="module")
def trained(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    ended = script("train.py", *SHORT, "trainer.accelerator=cuda", "hydra.run.dir=run", cwd=folder)
    assert ended.code == 0, ended.err
    return folder / "run"


def test_training_on_a_gpu(trained):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
    assert records[-1]["step"] == 12
    about = json.loads((trained / "environment.json").read_text())
    assert about["device"] == torch.cuda.get_device_name()


def test_a_gpu_draws_the_clouds_that_a_cpu_draws(trained, script, tmp_path):
    def drawn(device):
        ended = script(
            "sample.py",
            f"checkpoint={trained}/checkpoints/last",
            "num_clouds=2",
            "num_particles=300",
            "sampler.num_steps=8",
            f"device={device}",
            f"output={device}",
            cwd=tmp_path,
        )
        assert ended.code == 0, ended.err
        with np.load(tmp_path / device / "samples.npz") as file:
            return file["points"]

    on_cpu, on_gpu = drawn("cpu"), drawn("cuda")
    # As between two batch sizes (tests/commands/test_sample.py), with TF32 off by default; sums of another kernel.
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=1e-2 * on_cpu.std())
