import json
import math

import pytest
import torch
from torch import nn

from mfcdm.datasets import Clouds
from mfcdm.objective import Loss
from mfcdm.training.batches import Batches
from mfcdm.training.ema import EMA
from mfcdm.training.loggers import JsonLines
from mfcdm.training.record import LossRecord


def batches(size=4, num_clouds=10, seed=0):
    clouds = Clouds.join(list(torch.arange(num_clouds, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)))
    return Batches(clouds, size, seed)


def test_every_epoch_holds_every_cloud_once():
    source = batches()
    seen = torch.cat([source.indices(step) for step in range(5)])  # 20 = two epochs of ten
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    assert torch.equal(batches().at(7).x, batches().at(7).x)
    assert not torch.equal(batches(seed=1).indices(7), batches(seed=2).indices(7))
    first, second = (torch.randn(3, generator=batches().generator(step)) for step in (1, 2))
    assert not torch.equal(first, second)


def test_a_batch_may_be_larger_than_the_set():
    assert torch.bincount(batches(size=25).indices(0), minlength=10).tolist() in (
        [2] * 5 + [3] * 5,
        [3] * 5 + [2] * 5,
    ) or (sorted(torch.bincount(batches(size=25).indices(0), minlength=10).tolist()) == [2] * 5 + [3] * 5)


def test_the_average_of_constant_weights_is_the_weights_and_its_memory_is_as_stated():
    network = nn.Linear(2, 1, bias=False)
    ema = EMA(network, decay=0.9)
    nn.init.zeros_(network.weight)
    ema.mean["weight"].fill_(1.0)
    kept = 1.0
    for n in range(1, 200):
        ema.update(network)
        kept *= min(0.9, (1 + n) / (10 + n))
    assert torch.allclose(ema.mean["weight"], torch.full((1, 2), kept), rtol=1e-4)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(network, 1.0)


def test_losses_are_averaged_by_level_and_by_noise():
    record = LossRecord()
    for level, values, log_snr in ((0, [1.0, 3.0], [-8.0, -2.0]), (1, [5.0, 7.0], [-2.5, 9.0])):
        record.add(Loss(torch.tensor(0.0), torch.tensor(values), None, level, torch.zeros(2)), torch.tensor(log_snr))
    means = record.flush()
    assert means == {
        "loss": 4.0,
        "loss/level_0": 2.0,
        "loss/level_1": 6.0,
        "loss/log_snr/-3..0": 4.0,
        "loss/log_snr/-inf..-6": 1.0,
        "loss/log_snr/6..inf": 7.0,
    }
    assert record.flush() == {}


def test_records_of_a_resumed_run_continue_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as log:
        for step in (10, 20, 30):
            log.log(step, {"loss": step / 10})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # cut off by a kill
    with JsonLines(path, first_step=20) as log:
        log.log(30, {"loss": math.pi})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[-1]["loss"] == math.pi


DAMAGED = [b"\0\0\0\0", b"", b"[1]", b'{"loss": 1.0}', b'{"step": "2"}', b"\xff", b"[" * 100_000, b'{"step": 2, "lo']


def test_lines_that_are_no_record_are_left_out_and_said_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [b'{"step": 1, "loss": NaN}', b'{"step": 2}']
    path.write_bytes(b"\n".join([whole[0], *DAMAGED, whole[1], b'{"step": 3}', b""]))
    with pytest.warns(UserWarning, match=f"damaged lines of {path} that are left out: {len(DAMAGED)}$") as said:
        JsonLines(path, first_step=2).close()
    assert len(said) == 1
    assert path.read_bytes().splitlines() == whole
