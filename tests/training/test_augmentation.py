import math

import pytest
import torch
from scipy import stats

from mfcdm.datasets import Clouds
from mfcdm.training.augmentation import AXES, Augmentation
from mfcdm.training.batches import Batches
from tests.laws import generator


def cloud(n=50, dim=3, seed=1):
    return torch.randn(n, dim, generator=generator(seed))


def changed(x, count, **options):
    """Independent changes of one cloud."""
    change = Augmentation(**options)
    return torch.stack([change(x, generator(seed)) for seed in range(count)])


@pytest.mark.parametrize("axis", AXES)
def test_a_rotation_keeps_distances_and_the_coordinate_of_its_axis(axis):
    x, up = cloud(), AXES.index(axis)
    for y in changed(x, 20, rotation=180.0, axis=axis):
        assert torch.equal(y[:, up], x[:, up])
        # Two products and a sum in float32 of coordinates below 4: 3 roundings of 4 * 2^-24, times the sqrt(3) axes.
        assert torch.allclose(torch.cdist(y.double(), y.double()), torch.cdist(x.double(), x.double()), atol=3e-6)
        assert torch.linalg.det(torch.linalg.lstsq(x.double(), y.double()).solution) == pytest.approx(1.0, abs=1e-5)
    quarter = torch.eye(3)[(up + 1) % 3][None]
    turned = Augmentation(rotation=180.0, axis=axis)._turned(quarter, math.pi / 2)
    assert torch.allclose(turned, torch.eye(3)[(up + 2) % 3][None], atol=1e-6)  # right-handed


def angles(rotation, count=400, dim=3):
    """Of the first point's turns about y, or in the plane."""
    x = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]])[:, :dim]
    y = changed(x, count, rotation=rotation)[:, 0].double()
    angle = torch.atan2(-y[:, 2], y[:, 0]) if dim == 3 else torch.atan2(y[:, 1], y[:, 0]) - math.atan(0.5)
    return torch.rad2deg(torch.remainder(angle + math.pi, 2 * math.pi) - math.pi).numpy()


@pytest.mark.parametrize(("rotation", "dim"), [(180.0, 3), (25.0, 3), (60.0, 2)])
def test_angles_are_uniform(rotation, dim):
    found = stats.kstest(angles(rotation, dim=dim), stats.uniform(-rotation, 2 * rotation).cdf)
    assert found.pvalue > 0.01  # the seeds are fixed: one choice of them in a hundred would fail


def test_factors_are_uniform_and_keep_the_shape():
    x = cloud()
    y = changed(x, 400, scale=(0.5, 1.25))
    factors = (y / x)[..., 0]
    assert float((factors - factors[:, :1]).abs().max()) < 1e-5
    assert stats.kstest(factors[:, 0].numpy(), stats.uniform(0.5, 0.75).cdf).pvalue > 0.01


def test_jitter_is_white_noise_of_its_standard_deviation():
    x = cloud()
    noise = (changed(x, 400, jitter=0.05) - x).double() / 0.05
    count = noise.numel()  # 60,000 numbers
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert float(noise.var()) == pytest.approx(1.0, abs=4 * (2 / count) ** 0.5)  # the variance of a chi square
    apart = (noise[:, 1:] * noise[:, :-1]).mean()  # of neighbouring points
    assert abs(float(apart)) < 4 / count**0.5


def test_half_of_the_clouds_are_mirror_images():
    x = cloud()
    y = changed(x, 400, mirror="z")
    mirrored = [bool(torch.equal(one, x * torch.tensor([1.0, 1.0, -1.0]))) for one in y]
    assert all(image or torch.equal(one, x) for image, one in zip(mirrored, y, strict=True))
    assert abs(sum(mirrored) / 400 - 0.5) < 4 * (0.25 / 400) ** 0.5


def test_one_change_does_not_move_the_draws_of_another():
    x = cloud()
    both = Augmentation(rotation=40.0, scale=(0.5, 1.0))(x, generator(3))
    alone = Augmentation(rotation=40.0)(x, generator(3))
    factor = float((both / alone).mean())
    assert torch.allclose(both, factor * alone, atol=1e-6)
    assert torch.allclose(Augmentation(scale=(0.5, 1.0))(x, generator(3)), factor * x, atol=1e-6)


def test_the_data_keep_their_mean_and_spread_under_turns_and_mirror_images():
    """So normalisation, which is fitted before, still fits: E|Rx|^2 = |x|^2, and E Rx = 0 about the axis for 180."""
    x = cloud(200) + torch.tensor([3.0, 0.0, 0.0])
    y = changed(x, 2000, rotation=180.0)
    assert torch.allclose(y.square().sum(dim=2), x.square().sum(dim=1).expand(2000, -1), rtol=1e-5)
    # The centre, 3 from the axis, runs over a circle: its mean has a standard error of 3 / sqrt(2 * 2000) a coordinate.
    assert float(y.mean(dim=(0, 1))[[0, 2]].abs().max()) < 4 * 3 / (2 * 2000) ** 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rotation": 181.0}, "rotation must be from 0 to 180 degrees, got 181"),
        ({"rotation": math.nan}, "rotation must be"),
        ({"axis": "w"}, "axis must be one of x, y, z, got 'w'"),
        ({"axis": None}, "axis must be one of"),
        ({"scale": (1.1, 0.9)}, r"0 < low <= high, got \[1.1, 0.9\]"),
        ({"scale": (0.0, 1.0)}, "0 < low"),
        ({"scale": (1.0,)}, "two factors"),
        ({"jitter": -0.1}, "jitter must be >= 0"),
        ({"jitter": math.inf}, "jitter must be >= 0"),
        ({"mirror": "up"}, "mirror must be one of x, y, z, got 'up'"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Augmentation(**options)


def test_dimensions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="mirror=z, but the clouds have dimension 2"):
        Augmentation(mirror="z").check_dim(2)
    with pytest.raises(ValueError, match="dimension 2 or 3, not 4"):
        Augmentation(rotation=1.0).check_dim(4)
    Augmentation(rotation=1.0, mirror="y").check_dim(2)


def test_batches_change_every_cloud_by_its_own_draws_and_leave_padding_and_data_alone():
    clouds = Clouds.join([cloud(n, seed=7) for n in (5, 9, 9, 4)])  # the same first points
    before = clouds.x.clone()
    batches = Batches(clouds, 4, 0, augmentation=Augmentation(rotation=180.0, jitter=0.1))
    first, again = batches.at(0), batches.at(0)
    assert torch.equal(first.x, again.x)
    assert torch.equal(clouds.x, before)
    for x, length in zip(first.x, first.lengths.tolist(), strict=True):
        assert bool((x[length:] == 0).all())
    alike = Batches(Clouds(cloud(5).expand(4, 5, 3)), 4, 0, augmentation=Augmentation(rotation=180.0))
    heads = torch.cat([alike.at(step).x[:, 0] for step in (0, 1)])
    assert torch.pdist(heads).min() > 1e-4  # eight different turns of one point


def test_without_changes_batches_are_those_of_before():
    clouds = Clouds.join([cloud(n, seed=n) for n in (5, 9, 7, 4)])
    plain, off = Batches(clouds, 3, 0), Batches(clouds, 3, 0, augmentation=Augmentation(axis="z"))
    assert not Augmentation(axis="z").active
    for step in range(4):
        assert torch.equal(off.at(step).x, clouds.x[plain.indices(step)])
