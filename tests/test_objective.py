import math

import pytest
import torch
from torch import nn

from mfcdm.analytic import ExchangeableGaussian
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from tests.laws import generator, strong_interaction, three_shapes

SDE = CosineVPSDE()
TIME = 0.25


class ExactNetwork(nn.Module):
    """The prediction that an exact law's score implies, times a factor."""

    def __init__(self, law, prediction="v", factor=1.0):
        super().__init__()
        self.law, self.prediction, self.factor = law, prediction, factor

    def forward(self, x, t, lengths=None, label=None):
        alpha, sigma = SDE.alpha(t)[:, None, None], SDE.sigma(t)[:, None, None]
        noise = -sigma * self.law.score(x, t, SDE, lengths) * self.factor
        return noise if self.prediction == "noise" else (noise - sigma * x) / alpha


class LinearNetwork(nn.Module):
    """noise = a x_i + b mean(x): the form of the exact score of `ExchangeableGaussian` at one time."""

    prediction = "noise"

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x, t, lengths=None, label=None):
        return self.a * x + self.b * x.mean(dim=1, keepdim=True)


def fit(law, objective, num_particles, level, time=TIME, steps=150, batch=128):
    """Train a linear network at one time; return its (A, B) in units of the score, averaged over the last steps."""
    network = LinearNetwork().double()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    g, t, tail = generator(0), torch.full((batch,), time, dtype=torch.float64), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-3
        x_0 = law.sample(batch, num_particles, g, dtype=torch.float64)
        loss = objective.loss(network, objective.draw(x_0, generator=g, level=level, t=t), generator=g)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        if step >= 0.7 * steps:
            tail.append([network.a.item(), network.b.item()])
    sigma = float(SDE.sigma(torch.tensor(time, dtype=torch.float64)))
    a, b = (-torch.tensor(tail).mean(dim=0) / sigma).tolist()
    return a, b


@pytest.mark.parametrize("jacobian_weight", [0.0, 0.5])
def test_the_minimiser_is_the_exact_score(jacobian_weight):
    n = 16
    law = strong_interaction(n)
    objective = MeanFieldScoreMatching(SDE, Subdivision([n], [1.0]), jacobian_weight)
    a, b = fit(law, objective, n, level=0)
    exact_a, exact_b = (float(c) for c in law.coefficients(torch.tensor(TIME, dtype=torch.float64), SDE))
    # 45 averaged steps of 128 clouds: about 1 % of sampling error on A, 3 % on B, which one direction of N carries
    assert a == pytest.approx(exact_a, rel=0.04)
    assert b == pytest.approx(exact_b, rel=0.12)


@pytest.mark.parametrize(("level", "cardinality"), [(0, 4), (1, 8), (2, 16)])
def test_a_level_recovers_the_score_of_its_own_cardinality(level, cardinality):
    """Of a cloud of 16 with Cov = a delta + c / 16, n particles have Cov = a delta + (c n / 16) / n."""
    law = strong_interaction(16)
    objective = MeanFieldScoreMatching(SDE, Subdivision([4, 8, 16], [1.0, 0.5, 0.25]))
    a, b = fit(law, objective, 16, level, batch=256)
    part = ExchangeableGaussian(law.a, law.c * cardinality / 16)
    exact_a, exact_b = (float(c) for c in part.coefficients(torch.tensor(TIME, dtype=torch.float64), SDE))
    assert a == pytest.approx(exact_a, rel=0.06)
    assert b == pytest.approx(exact_b, rel=0.15)


@pytest.mark.parametrize("prediction", ["v", "noise"])
@pytest.mark.parametrize("jacobian_weight", [0.0, 1.0])
def test_no_rescaled_score_has_a_lower_loss_than_the_exact_one(prediction, jacobian_weight):
    law = three_shapes()
    objective = MeanFieldScoreMatching(SDE, Subdivision([16], [1.0]), jacobian_weight)
    x_0 = law.sample(512, 16, generator(0), dtype=torch.float64)
    draw = objective.draw(x_0, generator=generator(1))

    def loss(factor):
        network = ExactNetwork(law, prediction, factor)
        return float(objective.loss(network, draw, generator=generator(2)).total)  # the same draws for all factors

    assert loss(1.0) < min(loss(0.9), loss(1.1))


def test_the_jacobian_residual_of_the_exact_score_has_mean_zero():
    """E[(noise (noise . u) - u) | x_t] = sigma^2 ((grad s) u + s (s . u)), seen through test functions."""
    law, n, clouds = strong_interaction(4), 4, 20000
    objective = MeanFieldScoreMatching(SDE, Subdivision([n], [1.0]), 1.0)
    t = torch.full((clouds,), 0.4, dtype=torch.float64)
    draw = objective.draw(
        law.sample(clouds, n, generator(0), dtype=torch.float64), generator=generator(1), level=0, t=t
    )
    u = torch.randn(1, n, 3, generator=generator(2), dtype=torch.float64)
    score = law.score(draw.x_t, t, SDE)
    a, b = (c[:, None, None] for c in law.coefficients(t, SDE))
    grad_s_u = a * u + b * u.mean(dim=1, keepdim=True)
    inner = lambda x: (x * u).sum(dim=(1, 2), keepdim=True)  # noqa: E731
    predicted = draw.sigma**2 * (grad_s_u + score * inner(score))
    residual = predicted - (draw.noise * inner(draw.noise) - u)
    for test_function in (torch.ones_like(draw.x_t), draw.x_t, draw.x_t.square()):
        product = (residual * test_function)[:, 0, 0]
        assert abs(float(product.mean())) < 4.5 * float(product.std()) / math.sqrt(clouds)


def test_the_jacobian_term_sees_a_wrong_jacobian_that_score_matching_overlooks():
    """A prediction that is right at x_t but flat around it: only the second-order term tells them apart."""
    law = strong_interaction(8)
    objective = MeanFieldScoreMatching(SDE, Subdivision([8], [1.0]), 1.0)
    x_0 = law.sample(8192, 8, generator(0), dtype=torch.float64)
    draw = objective.draw(x_0, generator=generator(1), level=0, t=torch.full((8192,), 0.4, dtype=torch.float64))
    exact = ExactNetwork(law, "noise")

    def flat(x, t, lengths=None, label=None):
        return exact(draw.x_t, t)

    flat.prediction = "noise"
    right, wrong = (objective.loss(network, draw, generator=generator(2)) for network in (exact, flat))
    assert torch.equal(right.score_matching, wrong.score_matching)
    excess = wrong.jacobian - right.jacobian
    assert float(excess.mean()) > 3 * float(excess.std()) / math.sqrt(len(excess))


def test_levels_are_drawn_by_weight_and_times_inside_the_pushed_interval():
    levels = Subdivision.dyadic(32, 3, sde=SDE)
    objective = MeanFieldScoreMatching(SDE, levels, level_weights="bound", push=1.4)
    g, x_0 = generator(0), torch.zeros(4, 32, 3)
    draws = [objective.draw(x_0, generator=g) for _ in range(600)]
    share = torch.bincount(torch.tensor([d.level for d in draws]), minlength=3) / 600
    weights = torch.tensor(levels.level_weights("bound"))
    assert torch.allclose(share, weights, atol=4 * 0.5 / math.sqrt(600))
    for level in range(3):
        t = torch.cat([d.t for d in draws if d.level == level] or [torch.tensor([])])
        end, start = objective.intervals[level]
        assert bool(((t > end * (1 - 1e-6)) & (t <= start)).all())
    t = torch.cat([d.t for d in draws if d.level == 0])
    end, start = objective.intervals[0]
    assert float(t.mean()) == pytest.approx((end + start) / 2, abs=0.01)  # evenly spread over each batch
    assert start == 1.0
    assert objective.intervals[1][1] > levels.times[1], "a level trains up to the pushed time"


@pytest.mark.parametrize("share", [None, 0.0, 0.25])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_either_part_of_a_level_gets_its_share_uniformly(level, share):
    """Times are evenly spread over a batch: the empirical distribution differs from the exact one by 1 / B."""
    objective = MeanFieldScoreMatching(SDE, Subdivision.dyadic(32, 3, sde=SDE), pushed_share=share)
    (end, start), tau, batch = objective.intervals[level], objective.subdivision.times[level], 4096
    t = objective.draw(torch.zeros(batch, 32, 1, dtype=torch.float64), generator=generator(0), level=level).t
    pushed = (start - tau) / (start - end) if share is None or start == tau else share
    assert end < t.min() < t.max() <= start
    for s in torch.linspace(end, start, 50, dtype=torch.float64).tolist():
        above = pushed * (start - s) / (start - tau) if s > tau else pushed + (1 - pushed) * (tau - s) / (tau - end)
        assert abs(float((t > s).double().mean()) - above) < 1.5 / batch


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_pushed_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"pushed_share must lie in .* got {share}"):
        MeanFieldScoreMatching(SDE, Subdivision.dyadic(32, 3, sde=SDE), pushed_share=share)


def test_a_level_takes_distinct_points_of_every_cloud():
    objective = MeanFieldScoreMatching(SDE, Subdivision([8, 16], [1.0, 0.5]))
    x_0 = torch.arange(16, dtype=torch.float64)[None, :, None].expand(3, -1, 2)
    draw = objective.draw(x_0, generator=generator(0), level=0)
    assert draw.x_0.shape == (3, 8, 2)
    assert all(len(set(row.tolist())) == 8 for row in draw.x_0[..., 0])
    everything = objective.draw(x_0, generator=generator(0), level=1)
    assert sorted(everything.x_0[0, :, 0].tolist()) == list(range(16))


def test_clouds_of_mixed_cardinality_count_alike_and_padding_never_matters():
    law = three_shapes()
    objective = MeanFieldScoreMatching(SDE, Subdivision([8], [1.0]), 1.0)
    x_0 = law.sample(3, 12, generator(0), dtype=torch.float64)
    lengths = torch.tensor([12, 5, 1])
    padded = x_0.clone()
    padded[1, 5:], padded[2, 1:] = torch.nan, torch.inf
    network = ExactNetwork(law)
    draw = objective.draw(padded, lengths, generator(1))
    assert draw.lengths.tolist() == [8, 5, 1]
    loss = objective.loss(network, draw, generator=generator(2))
    assert bool(loss.total.isfinite())
    for b, n in enumerate(draw.lengths.tolist()):
        error = network(draw.x_t[b : b + 1, :n], draw.t[b : b + 1]) - (
            draw.alpha[b] * draw.noise[b : b + 1, :n] - draw.sigma[b] * draw.x_0[b : b + 1, :n]
        )
        assert float(loss.score_matching[b]) == pytest.approx(float(error.square().mean()), rel=1e-9)
    empty = objective(network, torch.full((1, 8, 3), torch.nan, dtype=torch.float64), torch.tensor([0]))
    assert float(empty) == 0.0


class Listener(ExactNetwork):
    """Remembers the labels that it is given."""

    def __init__(self, num_classes=3):
        super().__init__(three_shapes())
        self.num_classes, self.heard = num_classes, []

    def forward(self, x, t, lengths=None, label=None):
        self.heard.append(label)
        return super().forward(x, t, lengths)


def heard(network, label, seed=0, weight=0.0, **options):
    """What a network hears of labels, the loss, and the generator afterwards; one or several generators."""
    objective = MeanFieldScoreMatching(SDE, Subdivision([2], [1.0]), weight, **options)
    num_clouds = 8 if label is None else len(label)
    x_0 = torch.ones(num_clouds, 2, 3, dtype=torch.float64)
    g = generator(seed)
    loss = objective(network, x_0, label=label, generator=g)
    return network.heard, loss, g.get_state()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_labels_are_hidden_at_the_rate_that_is_asked_for(share):
    label = torch.arange(4000) % 3
    (seen,), _, _ = heard(Listener(), label, label_dropout=share)
    hidden = seen == -1
    assert torch.equal(seen[~hidden], label[~hidden])
    for z in range(3):
        rate = float(hidden[label == z].double().mean())
        assert rate == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1333))
    assert not torch.equal(hidden, heard(Listener(), label, seed=1, label_dropout=share)[0][0] == -1)


def test_the_jacobian_term_hides_the_labels_that_the_first_term_hides():
    label = torch.arange(64) % 3
    seen, _, _ = heard(Listener(), label, weight=1.0, label_dropout=0.5)
    assert len(seen) == 3
    assert 0 < int((seen[0] == -1).sum()) < 64
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("label", "num_classes", "share"),
    [(None, 3, 0.5), (torch.ones(8, dtype=torch.int64), 0, 0.5), (torch.ones(8, dtype=torch.int64), 3, 0.0)],
    ids=["no labels", "no classes", "no dropout"],
)
def test_where_there_is_nothing_to_hide_nothing_is_drawn(label, num_classes, share):
    """The loss, with the direction u that is drawn last, and the generator's state are bit-equal to a run without."""
    plain = heard(Listener(0), None, weight=1.0, label_dropout=0.0)
    seen, loss, state = heard(Listener(num_classes), label, weight=1.0, label_dropout=share)
    assert torch.equal(loss, plain[1])
    assert torch.equal(state, plain[2])
    assert all(label is None if given is None else torch.equal(given, label) for given in seen)


def test_what_is_hidden_of_a_cloud_depends_on_its_own_generator():
    objective = MeanFieldScoreMatching(SDE, Subdivision([2], [1.0]), label_dropout=0.5)
    label, x_0 = torch.arange(12) % 3, torch.ones(12, 2, 3, dtype=torch.float64)

    def seen(chosen):
        network = Listener()
        g = [generator(100 + b) for b in chosen]
        draw = objective.draw(x_0[: len(g)], generator=g, level=0, t=torch.full((len(g),), 0.5))
        objective.loss(network, draw, label[chosen], g)
        return network.heard[0]

    assert torch.equal(seen(range(12))[[3, 7]], seen([3, 7]))
    assert len(set(seen(range(12)).tolist())) == 4


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_label_dropout_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"label_dropout must lie in \[0, 1\), .*got {share}"):
        MeanFieldScoreMatching(SDE, Subdivision([2], [1.0]), label_dropout=share)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="jacobian_weight"):
        MeanFieldScoreMatching(SDE, Subdivision([8], [1.0]), -1.0)
    objective = MeanFieldScoreMatching(SDE, Subdivision([8], [1.0]))
    with pytest.raises(ValueError, match="8 particles cannot be drawn from clouds of 7"):
        objective(ExactNetwork(three_shapes()), torch.zeros(2, 7, 3))
    with pytest.raises(ValueError, match=r"\(7, 3\)"):
        objective(ExactNetwork(three_shapes()), torch.zeros(7, 3))
    with pytest.raises(ValueError, match=r"from 0 to 8, got \[9, 8\]"):
        objective(ExactNetwork(three_shapes()), torch.zeros(2, 8, 3), torch.tensor([9, 8]))
    wrong = ExactNetwork(three_shapes(), prediction="x_0")
    with pytest.raises(ValueError, match="'x_0'"):
        objective(wrong, torch.zeros(2, 8, 3))


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_is_none_is_refused(level):
    objective = MeanFieldScoreMatching(SDE, Subdivision([4, 8], [1.0, 0.5]))
    with pytest.raises(ValueError, match=f"level must be from 0 to 1, got {level}"):
        objective.draw(torch.zeros(1, 8, 3), level=level)
    with pytest.raises(ValueError, match=r"times must be \(1,\), got \(2,\)"):
        objective.draw(torch.zeros(1, 8, 3), t=torch.ones(2))
