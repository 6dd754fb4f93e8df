import pytest
import torch

from mfcdm.datasets import Clouds, Normalization, memory, rescaled
from tests.datasets.mapped_archives import EQUAL, Made


def mixed() -> Clouds:
    g = torch.Generator().manual_seed(0)
    return Clouds.join([5 + 2 * torch.randn(n, 3, generator=g) for n in (4, 9, 30)], labels=torch.tensor([0, 1, 1]))


def test_normalisation_gives_all_points_mean_zero_and_spread_one_and_is_undone():
    clouds = mixed()
    normalization = Normalization.fit(clouds)
    every = normalization.apply(torch.cat(clouds.points()))
    assert torch.allclose(every.mean(dim=0), torch.zeros(3), atol=1e-6)
    assert float(every.square().mean()) == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(normalization.undo(every), torch.cat(clouds.points()), atol=1e-5)
    mean, std = normalization
    assert mean.shape == (3,)
    assert std.ndim == 0


def test_a_set_that_does_not_fit_is_refused_while_it_is_read(monkeypatch):
    class Large(Made):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    whole = Large(EQUAL)
    size = 4 * 3 * EQUAL[0]  # bytes of a cloud
    for there in (2 * len(EQUAL) * size, 2 * 4 * size):  # half of which is for the clouds
        monkeypatch.setattr(memory, "memory", lambda there=there: there)
        monkeypatch.setattr("mfcdm.datasets.clouds.memory", lambda there=there: there)
        if there == 2 * len(EQUAL) * size:
            assert len(Clouds.of(whole)) == len(EQUAL)
    whole.read = 0
    with pytest.raises(MemoryError, match=r"the first 5 of 10 clouds would fill .*python -m mfcdm\.datasets\.convert"):
        Clouds.of(whole)
    assert whole.read == 5


@pytest.mark.parametrize("scheme", ["per_shape", "box"])
def test_a_scheme_brings_every_cloud_to_one_place_and_size(scheme):
    for x in rescaled(mixed(), scheme).points():
        if scheme == "per_shape":
            assert torch.allclose(x.mean(dim=0), torch.zeros(3), atol=1e-5)
            assert float(x.square().mean()) == pytest.approx(1.0, rel=1e-4)
        else:
            low, high = x.aminmax(dim=0)
            assert torch.allclose(low + high, torch.zeros(3), atol=1e-5)
            assert float((high - low).max()) == pytest.approx(1.0, rel=1e-5)


def test_selection_keeps_lengths_and_labels_together():
    part = mixed()[torch.tensor([2, 0])]
    assert part.lengths.tolist() == [30, 4]
    assert part.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([], "at least one cloud"),
        ([torch.zeros(2, 3), torch.zeros(2, 2)], "cloud 1 has dimension 2"),
        ([torch.zeros(2, 3), torch.zeros(0, 3)], "cloud 1 must be"),
        ([torch.tensor([[0.0, torch.nan, 0.0], [1.0, 1.0, 1.0]])], "cloud 0 has 1 point with NaN"),
    ],
)
def test_clouds_that_do_not_fit_are_refused(points, sentence):
    with pytest.raises(ValueError, match=sentence):
        Clouds.join(points)


def test_coincident_points_cannot_be_normalised():
    clouds = Clouds.join([torch.ones(4, 3)])
    with pytest.raises(ValueError, match=r"all points \(4\) coincide"):
        Normalization.fit(clouds)
    with pytest.raises(ValueError, match="cloud 0 coincide"):
        rescaled(clouds, "box")
    with pytest.raises(ValueError, match="'sphere'"):
        rescaled(clouds, "sphere")
