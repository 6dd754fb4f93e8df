import json
from dataclasses import replace

import pytest
import torch

from mfcdm.datasets import Clouds
from mfcdm.evaluation import Protocol, check_sets, evaluate
from mfcdm.metrics import (
    coverage,
    jensen_shannon_divergence,
    minimum_matching_distance,
    one_nearest_neighbour_accuracy,
    one_nearest_neighbour_interval,
    pairwise,
)
from tests.evaluation.clouds import a_set, ellipsoids

KEYS = ["mmd-cd", "cov-cd", "1nna-cd", "mmd-emd", "cov-emd", "1nna-emd", "jsd"]
QUICK = Protocol(num_permutations=50)


@pytest.fixture(scope="module")
def sets():
    return a_set(12, 24), a_set(12, 24, seed=1, size=1.2)


@pytest.fixture(scope="module")
def report(sets):
    return evaluate(*sets, QUICK)


def test_scores_are_those_of_the_library(sets, report):
    g, r = (clouds.x.double() for clouds in sets)
    assert [score.key for score in report.scores] == KEYS
    for metric in ("cd", "emd"):
        d_gg, d_rr, d_gr = pairwise(g, g, metric), pairwise(r, r, metric), pairwise(g, r, metric)
        assert report[f"mmd-{metric}"].value == pytest.approx(minimum_matching_distance(d_gr), rel=1e-12)
        assert report[f"cov-{metric}"].value == coverage(d_gr)
        assert report[f"1nna-{metric}"].value == one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr)
    found = one_nearest_neighbour_interval(
        d_gg, d_rr, d_gr, num_permutations=50, generator=torch.Generator().manual_seed(0), design="permutation"
    )
    assert (report["1nna-emd"].low, report["1nna-emd"].p_value) == (found.low, found.p_value)


def test_every_score_has_an_interval_and_a_floor(report):
    for score in report.scores:
        assert score.low <= score.value <= score.high
        assert score.floor_low <= score.floor_high
    with pytest.raises(KeyError):
        report["fid"]


def test_all_pairs_give_the_same_scores_and_floors(sets, report):
    whole = evaluate(*sets, replace(QUICK, emd="exact_all_pairs"))
    assert report.details["emd_saved"] > 0
    for ours, expected in zip(report.scores, whole.scores, strict=True):
        if ours.key == "1nna-emd":  # its interval needs other distances: from the nearest it is by permutations
            assert (ours.value, ours.floor_low, ours.floor_high) == (
                expected.value,
                expected.floor_low,
                expected.floor_high,
            )
        else:
            assert ours == expected


def test_floors_can_be_left_out(sets, report):
    found = evaluate(*sets, replace(QUICK, emd_floors=False, metrics=("emd",)))
    assert found.details["emd_solved"] < report.details["emd_solved"]
    assert found.notes[-1] == "mmd-emd and cov-emd have no noise floor (emd_floors=false)"
    for ours in found.scores:
        whole = report[ours.key]
        if ours.key == "1nna-emd":
            assert ours == whole
        else:
            assert ours == replace(whole, floor_low=None, floor_high=None)


def test_the_approximate_distance_is_named(sets, report):
    found = evaluate(*sets, replace(QUICK, emd="sinkhorn", metrics=("emd",)))
    assert [score.key for score in found.scores] == ["mmd-sinkhorn_emd", "cov-sinkhorn_emd", "1nna-sinkhorn_emd"]
    error = found.details["sinkhorn_emd_error_at_most"]
    exact, bound = report["mmd-emd"].value, found["mmd-sinkhorn_emd"].value
    assert bound <= exact
    assert bound > 0.97 * exact
    assert 0 < error < 0.2


def test_identical_sets():
    same = a_set(8, 20)
    found = evaluate(same, same, QUICK)
    for metric in ("cd", "emd"):
        assert [found[f"{name}-{metric}"].value for name in ("mmd", "cov", "1nna")] == [0, 1, 0]
    assert found["jsd"].value == 0
    assert found.notes == ("20 points a cloud, not 2048: the smallest cloud has no more",)


def test_occupancy_is_over_the_references_own_box_with_the_outside_as_a_cell(sets, report):
    g, r = sets
    low, high = r.x.double().amin(dim=(0, 1)), r.x.double().amax(dim=(0, 1))
    margin = 0.05 * float((high - low).max())
    expected = jensen_shannon_divergence(g.x, r.x, 28, (low - margin, high + margin), outside="cell")
    assert report["jsd"].value == pytest.approx(expected, rel=1e-12)
    far = evaluate(Clouds(g.x + 100), r, replace(QUICK, metrics=("jsd",)))
    assert (far["jsd"].value, far.details["jsd_generated_outside"]) == pytest.approx((1.0, 1.0))


def test_a_larger_set_gives_a_random_subset_and_says_so(sets):
    g, r = sets
    larger = Clouds.join([*r.points(), *a_set(8, 24, seed=5).points()])
    found = evaluate(g, larger, replace(QUICK, metrics=("cd",)))
    assert found.sizes["clouds"] == 12
    assert "reference: 12 of 20 clouds, a random subset without replacement, seed 0" in found.notes
    other = evaluate(g, larger, replace(QUICK, metrics=("cd",), seed=1))
    assert other["mmd-cd"].value != found["mmd-cd"].value
    assert evaluate(g, larger, replace(QUICK, metrics=("cd",)))["mmd-cd"] == found["mmd-cd"]
    with pytest.raises(ValueError, match="12 generated and 20 reference clouds: protocol mfcdm compares sets of equal"):
        evaluate(g, larger, replace(QUICK, unequal="refuse"))


def test_subsets_are_without_replacement():
    r = a_set(30, 10)
    found = evaluate(r[:20], r, replace(QUICK, metrics=("cd",)))
    # the 20 of 30 are distinct: at most one copy of each generated cloud, at distance 0
    assert found["cov-cd"].value >= 0.5
    assert found["1nna-cd"].value < 0.5


def test_clouds_of_different_cardinality_get_equally_many_points(sets):
    g, _ = sets
    mixed = Clouds.join([cloud[: 20 + index % 3] for index, cloud in enumerate(ellipsoids(12, 24, seed=2))])
    found = evaluate(g, mixed, replace(QUICK, metrics=("cd",)))
    assert (found.sizes["fewest_points"], found.sizes["most_points"]) == (20, 20)
    assert "20 points a cloud, not 2048: the smallest cloud has no more" in found.notes
    assert "generated: 20 of up to 24 points a cloud (random, without replacement, seed 0)" in found.notes
    first = evaluate(g, mixed, replace(QUICK, metrics=("cd",), draw_points="first"))
    expected = pairwise(g.x[:, :20].double(), mixed.x[:, :20].double())
    assert first["mmd-cd"].value == pytest.approx(minimum_matching_distance(expected), rel=1e-12)


def test_clouds_may_stay_as_they_are(sets):
    g, _ = sets
    mixed = Clouds.join([cloud[: 20 + index % 3] for index, cloud in enumerate(ellipsoids(12, 24, seed=2))])
    found = evaluate(g, mixed, replace(QUICK, draw_points="all", num_points=None))
    expected = pairwise(g.x.double(), mixed.x.double(), "emd", lengths_b=mixed.lengths)
    assert found["mmd-emd"].value == pytest.approx(minimum_matching_distance(expected), rel=1e-12)
    assert (found.sizes["fewest_points"], found.sizes["most_points"]) == (20, 24)


def test_normalisation_by_the_reference_changes_units_only(sets, report):
    found = evaluate(*sets, replace(QUICK, normalization="reference"))
    points = sets[1].x.double().reshape(-1, 3)
    std = float((points - points.mean(dim=0)).square().mean().sqrt())
    assert found["mmd-emd"].value * std == pytest.approx(report["mmd-emd"].value, rel=1e-5)  # float32 clouds
    assert found["1nna-emd"].value == report["1nna-emd"].value


def test_normalisation_of_each_cloud_forgets_its_size():
    g = a_set(10, 24, spread=0.0)
    found = evaluate(g, Clouds(g.x * 3), replace(QUICK, normalization="box", metrics=("cd",)))
    assert found["mmd-cd"].value == pytest.approx(0, abs=1e-12)


def test_batches_are_averaged_and_say_so(sets):
    g, r = sets
    found = evaluate(g, r, replace(QUICK, metrics=("cd",), pooling="batches", batch_size=5))
    parts = []
    for part in (slice(0, 5), slice(5, 10), slice(10, 12)):
        a, b = g.x[part].double(), r.x[part].double()
        parts.append(one_nearest_neighbour_accuracy(pairwise(a, a), pairwise(b, b), pairwise(a, b)))
    assert found["1nna-cd"].value == pytest.approx(sum(parts) / 3, rel=1e-12)
    assert found["1nna-cd"].low is None
    assert "flatters a bad generator" in found.notes[-1]
    left_over = evaluate(g[:11], r[:11], replace(QUICK, metrics=("cd",), pooling="batches", batch_size=5))
    assert left_over["1nna-cd"].value == pytest.approx(sum(parts[:2]) / 2, rel=1e-12)  # a rest of one is no set


def test_pooling_in_batches_of_eight_flatters_a_bad_generator():
    """The demand: more than 5 points. A wrong thickness shows between clouds of nearly one length, rare among eight."""
    template = torch.nn.functional.normalize(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    length = 0.2 + 0.8 * torch.rand(2, 64, 1, generator=torch.Generator().manual_seed(1))
    g, r = (
        Clouds(template * torch.stack([one, torch.full_like(one, thickness), torch.full_like(one, 0.3)], dim=-1))
        for one, thickness in zip(length, (0.4, 0.3), strict=True)
    )
    protocol = replace(QUICK, metrics=("cd",))
    full, batched = evaluate(g, r, protocol), evaluate(g, r, replace(protocol, pooling="batches", batch_size=8))
    assert full["1nna-cd"].value > 0.8
    assert full["1nna-cd"].value - batched["1nna-cd"].value > 0.05


def test_the_report_is_plain_and_complete(report):
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["protocol"]["name"] == "mfcdm"
    assert list(plain["scores"]) == KEYS
    assert set(plain["versions"]) >= {"mfcdm", "torch", "numpy", "scipy"}
    assert set(plain["seconds"]) == {"cd", "emd", "jsd"}
    assert 0 < plain["details"]["emd_solved"] <= plain["details"]["emd_pairs"] == 276


def test_progress_names_the_part(sets):
    seen = {}
    evaluate(*sets, QUICK, progress=lambda part, done, total: seen.update({part: (done, total)}))
    assert seen == {"cd (1 of 3)": (12, 12), "cd (2 of 3)": (12, 12), "cd (3 of 3)": (24, 24), "emd": (276, 276)}


def test_sets_that_do_not_fit_are_refused(sets):
    g, r = sets
    with pytest.raises(ValueError, match="points of dimension 3, reference clouds of dimension 2"):
        evaluate(g, Clouds(r.x[..., :2]), QUICK)
    with pytest.raises(ValueError, match="at least 4 clouds on each side, got 3"):
        evaluate(g[:3], r, QUICK)


def test_clouds_too_large_for_an_assignment_are_refused_before_any_work(monkeypatch):
    large = Clouds(torch.zeros(4, 11_586, 3))
    protocol = replace(QUICK, num_points=None)
    sentence = (
        r"at most 11,585 points, got 11,586 and 11,586: draw fewer points of each cloud \(protocol.num_points\), or"
    )
    monkeypatch.setattr("mfcdm.evaluation.scoring.pairwise", pytest.fail)
    with pytest.raises(ValueError, match=sentence):
        evaluate(large, large, protocol)
    check_sets(large, large, replace(protocol, metrics=("cd", "jsd")))  # chamfer has no such limit
    mixed = Clouds.join([torch.rand(2100, 3), *torch.rand(3, 2111, 3)])
    with pytest.raises(ValueError, match="between 2,100 and 2,111 points is a linear program of 4,433,100 pairs, more"):
        check_sets(mixed, mixed, replace(protocol, draw_points="all"))


def test_a_grid_of_too_many_cells_is_refused_before_any_distance(sets):
    seen = []
    with pytest.raises(ValueError, match=r"protocol.jsd_resolution=1000 makes 1000\^3 cells; at most 134,217,728"):
        evaluate(*sets, replace(QUICK, jsd_resolution=1000), progress=lambda *state: seen.append(state))
    assert not seen
    check_sets(*sets, replace(QUICK, jsd_resolution=1000, metrics=("cd",)))  # which has no grid
