import gc
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy import stats

from mfcdm.datasets import Clouds, clouds_of
from mfcdm.training.augmentation import Augmentation
from mfcdm.training.batches import Batches, BatchesAhead, distinct
from tests.datasets.mapped_archives import EQUAL, MIXED, Made, written
from tests.laws import generator


def same(a: Clouds, b: Clouds) -> bool:
    """Equal to the last bit."""
    pairs = [(a.x, b.x), (a.lengths, b.lengths), (a.labels, b.labels)]
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in pairs)


def ended() -> bool:
    """Whether no thread of batches is left, once the last one has had its time."""
    gc.collect()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    for thread in left:
        thread.join(10)
    return not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("sizes", [MIXED, EQUAL], ids=["mixed", "equal"])
@pytest.mark.parametrize(
    "options",
    [{}, {"augmentation": Augmentation(30.0, "y", (0.9, 1.1), 0.01, "x")}, {"max_points": 6}],
    ids=["plain", "changed", "thinned"],
)
def test_batches_of_files_are_those_of_memory_to_the_last_bit(tmp_path, sizes, options):
    made = Made(sizes, ("a", "b"))
    here = Batches(Clouds.of(made), 4, 3, **options)
    there = BatchesAhead(clouds_of(written(tmp_path / "a", made)), 4, 3, **options)
    for step in (0, 1, 2, 2, 7, 3, 4):  # a resumed run begins anywhere
        assert same(there.at(step), here.at(step))
    assert torch.equal(there.generator(5).get_state(), here.generator(5).get_state())
    del there
    assert ended()


@pytest.mark.parametrize("options", [{}, {"max_points": 6}, {"augmentation": Augmentation(30.0, jitter=0.01)}])
def test_batches_are_the_same_whatever_torch_takes_for_its_default_type(tmp_path, options):
    """As in the forward pass of a run in float64, beside which a thread reads."""
    batches = Batches(clouds_of(written(tmp_path / "a", Made(MIXED))), 4, 3, **options)
    expected = batches.at(0)
    torch.set_default_dtype(torch.float64)
    try:
        found = batches.at(0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.x.dtype == torch.float32
    assert same(found, expected)


def test_the_next_batch_is_read_while_a_step_computes(monkeypatch):
    batches = BatchesAhead(Clouds.of(Made(EQUAL)), 4, 0)
    reads, read = [], Batches._read
    monkeypatch.setattr(
        Batches, "_read", lambda self, step: reads.append((step, threading.current_thread().name)) or read(self, step)
    )
    for step in range(3):
        batches.at(step)
    batches._reader.shutdown()
    assert reads == [(0, "MainThread"), *((step, "batches_0") for step in (1, 2, 3))]


def test_what_fails_in_the_thread_is_raised_by_the_step_that_needs_it(tmp_path):
    batches = BatchesAhead(clouds_of(written(tmp_path / "a", Made(EQUAL))), 1, 0)
    shards = [int(batches.indices(step)) // 4 for step in range(10)]
    bad = next(step for step in range(2, 10) if shards[step] != shards[step - 1])
    path = tmp_path / "a" / f"train-{shards[bad]:05d}.npy"
    content = path.read_bytes()
    path.write_bytes(content[:130])
    fine = batches.at(bad - 1)  # the batch behind it fails, and nothing is raised here
    with pytest.raises(ValueError, match="was cut to 130 bytes while in use"):
        batches.at(bad)
    path.write_bytes(content)
    assert same(batches.at(bad - 1), fine)
    del batches
    assert ended()


def test_a_run_that_is_left_in_its_midst_leaves_no_thread():
    def run() -> None:
        batches = BatchesAhead(Clouds.of(Made(EQUAL)), 4, 0)
        for step in range(100):
            batches.at(step)
            if step == 3:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        run()
    assert ended()


def test_a_program_that_stops_anywhere_ends_at_once():
    """With its own error and no word of the thread."""
    code = (
        "import torch; from mfcdm.datasets import Clouds; from mfcdm.training.batches import BatchesAhead\n"
        "batches = BatchesAhead(Clouds(torch.zeros(9, 4, 3)), 4, 0); batches.at(0); raise SystemExit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_larger_clouds_are_thinned_and_smaller_ones_are_whole(tmp_path):
    made = Made(MIXED)
    batches = Batches(clouds_of(written(tmp_path / "a", made)), 10, 0, max_points=8)
    batch, chosen = batches.at(0), batches.indices(0).tolist()
    assert batch.x.shape == (10, 8, 3)
    assert batch.lengths.tolist() == [min(8, MIXED[index]) for index in chosen]
    for x, index in zip(batch.points(), chosen, strict=True):
        own = {tuple(point) for point in made.clouds[index].tolist()}
        kept = [tuple(point) for point in x.tolist()]
        assert len(set(kept)) == len(kept) == min(8, MIXED[index])
        assert set(kept) <= own
    again = Batches(batches.clouds, 10, 0, max_points=8).at(1)  # another epoch, other points
    first = {index: x for index, x in zip(chosen, batch.x, strict=True) if MIXED[index] > 8}
    moved = dict(zip(batches.indices(1).tolist(), again.x, strict=True))
    assert any(not torch.equal(x, moved[index]) for index, x in first.items())
    wide = Batches(batches.clouds, 10, 0, max_points=4).at(0)
    assert wide.lengths is None  # no cloud has fewer


@pytest.mark.parametrize(("num_points", "size"), [(6, 3), (40, 3)], ids=["shuffled", "drawn"])
def test_sets_of_points_are_equally_likely(num_points, size):
    """Chi square over the points and over the pairs: sets of three are uniform only if their pairs are."""
    g, count = generator(0), 4000
    sets = [distinct(num_points, size, g).tolist() for _ in range(count)]
    assert all(len(set(one)) == size and one == sorted(one) and one[-1] < num_points for one in sets)
    points = np.bincount(np.concatenate(sets), minlength=num_points)
    pairs = np.zeros((num_points, num_points))
    for a, b, c in sets:
        pairs[[a, a, b], [b, c, c]] += 1
    # The three points of a set exclude each other, so both statistics are a little smaller than for free draws.
    assert stats.chisquare(points).pvalue > 0.01
    assert stats.chisquare(pairs[np.triu_indices(num_points, 1)]).pvalue > 0.01


def test_all_points_and_few_of_many():
    assert distinct(5, 5, generator(0)).tolist() == [0, 1, 2, 3, 4]
    few = distinct(10**12, 1000, generator(0))  # work grows with the set alone
    assert len(set(few.tolist())) == 1000
    # The largest of 1,000 uniform numbers is below a half of the range once in 2^1000.
    assert 0.5 * 10**12 < int(few.max()) < 10**12
