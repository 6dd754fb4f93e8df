"""The samples of report.html, and their nearest training shapes."""

import numpy as np
import pytest
import torch

from mfcdm.datasets import Clouds, MappedArchive, MappedClouds
from mfcdm.metrics import pairwise
from mfcdm.report import nearest
from mfcdm.report.nearest import NUM_CANDIDATES, _rows, matches
from mfcdm.report.samples import Samples, pairs
from tests.datasets.mapped_archives import EQUAL, Made, written
from tests.report_pages import page_of, shapes, training, write_run, write_samples


def test_each_sample_is_beside_the_shape_that_it_copies(tmp_path):
    """Other samplings of three training shapes, among so many that most are never compared."""
    assert NUM_CANDIDATES < 120
    copied = [5, 77, 119]
    run = write_samples(write_run(tmp_path / "run"), shapes(120, 600, seed=1)[copied])
    shown = page_of(run, training(120, 1024)).data["pairs"]
    found = [pair["match"] for pair in shown]
    assert [match["index"] for match in found] == copied
    for match in found:
        assert (match["num_points"], match["num_shapes"]) == (512, 120)
        # both are chamfer distances of two independent samplings of one shape: means of 1,024 squared distances between
        # neighbours on a segment, whose deviation is 2 to 3 times their mean, so 10 % of it here; 40 % is 3 of theirs
        assert match["distance"] == pytest.approx(match["floor"], rel=0.4)
        assert match["neighbour"] > 20 * match["floor"]
    for pair in shown:
        assert len(pair["generated"]["x"]) == 600
        assert len(pair["nearest"]["z"]) == 1024


def samplings(clouds, index, size, seed):
    """Two samplings of a training shape without common points."""
    rows = _rows(clouds, index, seed)
    return clouds.cloud(index, rows[:size]), clouds.cloud(index, rows[size : 2 * size])


def test_few_shapes_are_all_compared():
    generated, clouds = list(shapes(4, 50, seed=3)), training(NUM_CANDIDATES, 40, seed=4)
    drawn = torch.stack([samplings(clouds, index, 20, seed=0)[0] for index in range(len(clouds))])
    found = matches([cloud[:20] for cloud in generated], clouds)
    expected = pairwise(torch.stack([cloud[:20] for cloud in generated]), drawn)
    assert [match.index for match in found] == expected.argmin(dim=1).tolist()
    assert [match.distance for match in found] == pytest.approx(expected.amin(dim=1).tolist())


def test_a_copy_is_at_distance_nought_and_a_shape_is_not_its_own_neighbour():
    clouds = training(3, 9)
    once, again = samplings(clouds, 1, 4, seed=0)
    (match,) = matches([once], clouds)
    assert (match.index, match.distance, match.num_points) == (1, 0.0, 4)
    assert match.floor == pytest.approx(float(pairwise(once[None], again[None])))
    others = [samplings(clouds, index, 4, seed=0)[0] for index in (0, 2)]
    assert match.neighbour == pytest.approx(float(pairwise(again[None], torch.stack(others)).min()))


def test_a_single_shape_of_a_single_point_has_neither_neighbour_nor_floor():
    (match,) = matches([torch.zeros(5, 3)], Clouds.join([torch.ones(1, 3)]))
    assert (match.distance, match.neighbour, match.floor) == (6.0, None, None)  # |1 - 0|^2 = 3, from both sides


def test_a_set_in_files_is_not_read_through(tmp_path, monkeypatch):
    clouds, read, points = MappedClouds.over(written(tmp_path, Made(EQUAL))), [], MappedArchive.points
    monkeypatch.setattr(nearest, "MAX_READ", 3 * 12 * EQUAL[0])  # bytes of three clouds

    def noted(archive, index, rows=None):
        read.append((index, EQUAL[0] if rows is None else len(rows)))
        return points(archive, index, rows)

    monkeypatch.setattr(MappedArchive, "points", noted)
    found = matches([clouds.cloud(index) for index in (0, 4)], clouds)
    assert [match.num_shapes for match in found] == [3, 3]
    assert len({index for index, _ in read[2:]}) == 3
    # one sampling of six points of each, and for each generated cloud a second one of its nearest
    assert [count for _, count in read[2:]] == [6] * 5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e5])
def test_coordinates_are_rounded_finer_than_a_thousandth_of_the_frame(scale):
    clouds = [scale * (cloud + 2) for cloud in shapes(2, 300)]
    for pair, cloud in zip(pairs(Samples(None, clouds, ["", ""])), clouds, strict=True):
        shown = np.stack([pair["generated"][axis] for axis in "xyz"], axis=1)
        assert np.abs(shown - cloud.double().numpy()).max() <= pair["reach"] / 1000
        assert pair["outside"] == 0
        assert pair["reach"] < 2 * scale  # around the cloud, whose half side is at most 1, and not around 0


def test_stray_points_do_not_shrink_a_shape_and_are_counted():
    cloud = torch.cat([shapes(1, 1000)[0], torch.full((3, 3), 40.0)])
    (pair,) = pairs(Samples(None, [cloud], [""]))
    assert pair["outside"] == 3
    assert pair["reach"] < 2


def test_clouds_of_several_sizes_in_the_plane_have_their_classes(tmp_path):
    points = shapes(9, 3000, dim=2)
    lengths = np.array([3000, 40] + [100] * 7)
    run = write_samples(write_run(tmp_path / "run"), points, lengths=lengths, labels=np.arange(9) % 3)
    shown = page_of(run, training(9, 90, dim=2)).data["pairs"]
    assert [pair["points"] for pair in shown] == [3000, 40, *[100] * 6]  # the first eight
    assert [len(pair["generated"]["x"]) for pair in shown] == [2048, 40, *[100] * 6]
    assert {z for pair in shown for z in pair["generated"]["z"]} == {0.0}
    assert shown[4]["title"] == "cloud 4: class 1"
    assert {pair["match"]["num_points"] for pair in shown} == {40}


def test_without_training_shapes_the_samples_are_alone_and_the_page_says_why(tmp_path):
    run = write_samples(write_run(tmp_path / "run"), shapes(2, 64))
    alone = page_of(run, missing="the data set is on the moon.")
    flat = page_of(run, training(4, 64, dim=2))
    for page, reason in ((alone, "the data set is on the moon."), (flat, "of one dimension, but are of [2, 3]")):
        assert [(pair["nearest"], pair["match"]) for pair in page.data["pairs"]] == [(None, None)] * 2
        assert "No training shapes beside the samples: " in page.text
        assert reason in page.text


def test_samples_below_the_run_are_shown_where_it_has_none_of_its_own(tmp_path):
    run = write_samples(write_run(tmp_path / "run"), shapes(2, 32), name="more")
    assert "clouds of more/samples.npz" in page_of(run).text
    write_samples(run, shapes(3, 32))
    page = page_of(run)
    assert "The first 3 clouds of samples/samples.npz" in page.text
