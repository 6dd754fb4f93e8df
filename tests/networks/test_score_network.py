import math

import pytest
import torch

from mfcdm.interaction import available_backends
from mfcdm.networks import ScoreNetwork
from mfcdm.networks.embeddings import LabelEmbedding
from mfcdm.networks.score_network import _readable
from tests.laws import five_components, generator

BACKENDS = [name for name in ("reference", "tiled", "native") if name in available_backends()]
VARIANTS = [("local", "convolution", "global"), ("local",), ("global",), ("convolution",), ()]


def network(**options) -> ScoreNetwork:
    torch.manual_seed(0)
    return ScoreNetwork(**{"width": 32, "depth": 2, "num_moments": 8, **options}).double()


def cloud(num_clouds=2, num_particles=17, dim=3, seed=0):
    return torch.randn(num_clouds, num_particles, dim, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("interactions", VARIANTS, ids=str)
@pytest.mark.parametrize("num_particles", [1, 17, 129])
def test_it_commutes_with_permutations(interactions, num_particles):
    net, x, t = network(interactions=interactions), cloud(2, num_particles), torch.tensor([0.2, 0.8]).double()
    order = torch.randperm(num_particles, generator=generator(1))
    assert torch.allclose(net(x[:, order], t), net(x, t)[:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("interactions", VARIANTS, ids=str)
def test_padding_never_matters(interactions, backend):
    net, x = network(interactions=interactions, backend=backend), cloud(4, 40)
    lengths, t = torch.tensor([40, 33, 1, 0]), torch.full((4,), 0.3, dtype=torch.float64)
    padded = x.clone()
    for b, n in enumerate(lengths):
        padded[b, n:] = torch.nan
    output = net(padded, t, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        if n:
            assert torch.allclose(output[b, :n], net(x[b : b + 1, :n], t[b : b + 1])[0], rtol=0, atol=1e-9)
        assert not output[b, n:].any()


@pytest.mark.parametrize("depth", range(1, 7))
def test_every_second_block_convolves_and_at_least_one(depth):
    net = network(depth=depth, interactions=["convolution"])
    convolving = [index for index, block in enumerate(net.blocks) if block.local is not None]
    first = depth // 2 % 2
    assert convolving == list(range(first, depth, 2))
    assert depth // 2 in convolving


def test_gradients_stay_finite_under_padding():
    net, x = network(), cloud(2, 5)
    x[0, 3:], x[1] = torch.nan, torch.nan
    net(x, torch.tensor([0.3, 0.5]).double(), lengths=torch.tensor([3, 0])).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("interactions", VARIANTS[:4], ids=str)
def test_the_output_has_a_mean_field_limit(interactions):
    """Fixed particles, the others resampled from one law: the spread of the output falls like N^(-1/2)."""
    net, law = network(interactions=interactions), five_components()
    fixed = law.sample(1, 8, generator(3), dtype=torch.float64)
    t, spreads, sizes = torch.tensor([0.3]).double(), [], [2048, 8192, 32768]
    for n in sizes:
        draws = [law.sample(1, n - 8, generator(100 * n + s), dtype=torch.float64) for s in range(8)]
        with torch.no_grad():
            outputs = torch.stack([net(torch.cat((fixed, others), dim=1), t)[0, :8] for others in draws])
        spreads.append(float(outputs.std(dim=0).square().mean().sqrt()))
    slope = math.log(spreads[-1] / spreads[0]) / math.log(sizes[-1] / sizes[0])
    # the log of a spread over 8 draws of 24 numbers has a standard error of about 0.1, so the slope one of 0.05
    assert -0.7 < slope < -0.35, spreads


@pytest.mark.parametrize("interactions", VARIANTS, ids=str)
def test_particles_see_each_other_only_through_the_interaction(interactions):
    net, x, t = network(interactions=interactions), 0.2 * cloud(1, 6), torch.tensor([0.5]).double()
    moved = x.clone()
    moved[0, 1:] += 0.1
    unchanged = torch.allclose(net(x, t)[0, 0], net(moved, t)[0, 0], rtol=0, atol=1e-12)
    assert unchanged == (not interactions)


@pytest.mark.parametrize("num_particles", [1, 2, 31, 32, 33, 300])
@pytest.mark.parametrize("dim", [2, 3])
def test_it_is_finite_for_any_cardinality(num_particles, dim):
    net = ScoreNetwork(dim=dim, width=32, depth=1)
    x = cloud(2, num_particles, dim).float()
    for scale in (0.0, 1.0, 1e3):  # coincident, ordinary and far apart
        assert bool(net(scale * x, torch.tensor([1e-3, 1.0])).isfinite().all())


def test_backends_agree():
    x, t = cloud(2, 129), torch.tensor([0.1, 0.9]).double()
    outputs = [network(backend=backend)(x, t) for backend in BACKENDS]
    assert all(torch.allclose(output, outputs[0], rtol=0, atol=1e-12) for output in outputs[1:])


def test_the_default_is_the_small_size_and_float64_stays_float64():
    net = ScoreNetwork()
    assert net(cloud(1, 4).float(), torch.tensor([0.5])).dtype == torch.float32
    assert net.double()(cloud(1, 4), torch.tensor([0.5]).double()).dtype == torch.float64


def test_labels_condition_the_output():
    net, x, t = network(num_classes=3), cloud(2, 5), torch.tensor([0.5, 0.5]).double()
    none, missing = net(x, t), net(x, t, label=torch.tensor([-1, -1]))
    assert torch.equal(none, missing)
    assert not torch.allclose(net(x, t, label=torch.tensor([0, 1])), none)
    assert torch.equal(net(x, t, label=torch.tensor([0, 1]))[1], net(x, t, label=torch.tensor([2, 1]))[1])


def test_an_empty_cloud_reads_something():
    own = torch.tensor([[True, False], [False, False]])
    assert _readable(own)[1, 0, 0].tolist() == [True, True]
    assert _readable(own)[0, 0, 0].tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"radius": (0.0, 1.0)}, "radius"),
        ({"interactions": ["near"]}, "'near'"),
        ({"prediction": "x_0"}, "'x_0'"),
        ({"num_heads": 5}, "num_heads=5 and width=64"),
        ({"num_classes": -1}, "got -1"),
    ],
)
def test_what_does_not_fit_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScoreNetwork(**options)


def test_shapes_are_checked():
    net, x, t = network(), cloud(), torch.tensor([0.5, 0.5]).double()
    for bad in (lambda: net(x[..., :2], t), lambda: net(x, t[:1]), lambda: net(x, t, lengths=t[:1])):
        with pytest.raises(ValueError, match="must be"):
            bad()
    with pytest.raises(ValueError, match=r"must be torch\.float64 as the network is, got torch\.float32"):
        net(x.float(), t)
    with pytest.raises(ValueError, match="floating"):  # whole numbers would make times whole numbers too
        net(x.long(), t)
    with pytest.raises(ValueError, match=r"whole numbers, got torch\.float32"):
        network(num_classes=3)(x, t, label=torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match=r"from -1 \(none\) to 2, got 3"):
        network(num_classes=3)(x, t, label=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="without classes"):
        net(x, t, label=torch.zeros(2))


def test_a_label_that_is_no_class_becomes_no_other_class():
    """On a GPU labels are not checked beforehand: the table must fail there."""
    embedding = LabelEmbedding(3, 4)
    assert torch.equal(embedding(torch.tensor([-1]), 1), embedding(None, 1))
    for label in (4, -2):
        with pytest.raises(IndexError):
            embedding(torch.tensor([label]), 1)
