import pytest
import torch
from scipy.spatial import cKDTree

from mfcdm.analytic import ExchangeableGaussian, GaussianMixture
from mfcdm.branching import Renoise
from mfcdm.conditioning import complete, densify
from mfcdm.generate import generate_from_score
from mfcdm.holding import HeldScore, Hold, pushed
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import Geometric, Langevin, ProbabilityFlow
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from tests.laws import five_components, generator, pooled_error, shape_error, three_shapes

SDE = CosineVPSDE()
EXACT = Hold(floor=0.0, trust=float("inf"))  # a true score's covariance needs neither


def make(law, given, num_particles, levels=None, sampler=None, seed=0, **options):
    levels = Subdivision([num_particles], [1.0]) if levels is None else levels
    options |= {"num_particles": num_particles, "generator": generator(seed)}
    return complete(law.as_score(SDE), SDE, sampler or Langevin(num_steps=100), levels, Renoise(), given, **options)


def densified(law, given, num_particles, num_steps=60, **options):
    options |= {"num_particles": num_particles, "generator": generator(0)}
    return densify(law.as_score(SDE), SDE, Langevin(num_steps=num_steps), given, **options)


def at(log_snr, num_clouds):
    """Times (B,) of a log-SNR, and alpha, sigma there."""
    t = SDE.time_of_log_snr(torch.full((num_clouds,), log_snr, dtype=torch.float64))
    return t, float(SDE.alpha(t[0])), float(SDE.sigma(t[0]))


def gaussian_posterior(law, given, num_particles, alpha=1.0, sigma=0.0):
    """Mean (B, N - M, 1) and covariance of x_t^U given x_0^K for an exchangeable Gaussian in one dimension."""
    m = given.shape[1]
    prior = law.a * torch.eye(num_particles, dtype=torch.float64) + law.c / num_particles
    gain = torch.linalg.solve(prior[:m, :m], prior[:m, m:]).T
    covariance = prior[m:, m:] - gain @ prior[:m, m:]
    return alpha * gain @ given, alpha**2 * covariance + sigma**2 * torch.eye(num_particles - m, dtype=torch.float64)


@pytest.mark.parametrize("log_snr", [-8.0, -3.0, 0.0, 3.0, 9.0])
def test_the_score_beside_given_particles_is_exact_for_a_gaussian(log_snr):
    law, g = ExchangeableGaussian(a=0.5, c=8.0, dim=1), generator(0)
    t, alpha, sigma = at(log_snr, 3)
    given = law.sample(3, 6, g, dtype=torch.float64)
    x = torch.randn(3, 10, 1, generator=g, dtype=torch.float64)
    mean, covariance = gaussian_posterior(law, given, 16, alpha, sigma)
    exact = torch.linalg.solve(covariance, mean - x)

    def error(**options):
        held = HeldScore(law.as_score(SDE), SDE, given, Hold(floor=0.0, trust=float("inf"), **options), generator(1))
        return float((held(x, t) - exact).norm() / exact.norm())

    # V has two eigenvalues, so two conjugate directions solve with it exactly, to float64's rounding over alpha^2
    assert error(directions=2) < 1e-9
    if abs(log_snr) < 2:  # near data the noisy given particles say everything, near noise all scores are -x
        assert error(directions=1) > 0.01
        assert error(directions=0) > 0.1


def test_the_score_beside_given_particles_is_their_own_where_they_do_not_interact():
    law, g = five_components(), generator(0)
    t, _, _ = at(1.0, 2)
    given, x = law.sample(2, 5, g, dtype=torch.float64), torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    held = HeldScore(law.as_score(SDE), SDE, given, Hold(), generator(1))
    assert torch.allclose(held(x, t), law.score(x, t, SDE), rtol=1e-9, atol=1e-9)


def test_the_correction_brings_what_replacement_lacks_of_a_shape():
    """Few given points decide the shape, which their noisy copies do not show yet."""
    law, g = three_shapes(), generator(0)
    t, alpha, sigma = at(-3.0, 64)
    shape = law.shapes[0]  # the given points are of this shape, beyond doubt; the others are not decided yet
    given = shape.sample(64, 8, g, dtype=torch.float64)
    x = alpha * law.sample(64, 16, g, dtype=torch.float64)
    x = x + sigma * torch.randn(x.shape, generator=g, dtype=torch.float64)
    exact = shape.score(x, t, SDE)

    def error(hold):
        return float((HeldScore(law.as_score(SDE), SDE, given, hold, generator(1))(x, t) - exact).square().mean())

    # p(x_0^K | x_t) is no Gaussian here, and still half of the squared error goes (0.43 to 0.52 stay from -2 to -7)
    assert error(Hold()) < 0.6 * error(Hold(directions=0))


def test_the_correction_ends_where_it_is_told_to():
    law, g = three_shapes(), generator(0)
    given, x = law.sample(2, 5, g, dtype=torch.float64), torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    for log_snr, same in ((0.9, Hold()), (1.1, Hold(directions=0))):
        t, _, _ = at(log_snr, 2)
        until, other = (
            HeldScore(law.as_score(SDE), SDE, given, h, generator(1))(x, t) for h in (Hold(until=1.0), same)
        )
        assert torch.equal(until, other)


@pytest.mark.parametrize(
    ("sampler", "hold"),
    [
        (Langevin(num_steps=150), EXACT),
        (Langevin(num_steps=150), Hold()),
        (ProbabilityFlow(num_steps=60), EXACT),
        (Geometric(num_steps=100), EXACT),
        (Langevin(num_steps=60), Hold(resamplings=2, jump=4.0)),
        (Langevin(num_steps=150), Hold(until=1.0)),
    ],
    ids=["langevin", "defaults", "flow", "geometric", "resampling", "until"],
)
def test_completions_of_a_gaussian_have_the_conditional_mean_and_covariance(sampler, hold):
    law, clouds = ExchangeableGaussian(a=0.5, c=8.0, dim=1), 3000
    given = torch.linspace(0.2, 1.4, 6, dtype=torch.float64)[None, :, None].expand(clouds, -1, -1)
    new = make(law, given, 16, sampler=sampler, hold=hold, seed=1)[:, 6:, 0]
    mean, covariance = gaussian_posterior(law, given[:1], 16)
    common = new.mean(dim=1)  # the direction in which the given particles matter
    variance = float(covariance.mean())
    # 4.5 standard errors of 3,000 clouds, and 3 % for the discretisation of the path and the bound on the correction
    assert abs(float(common.mean() - mean.mean())) < 4.5 * (variance / clouds) ** 0.5 + 0.03 * float(mean.mean())
    assert abs(float(common.var()) / variance - 1) < 4.5 * (2 / clouds) ** 0.5 + 0.03
    deviations = new - common[:, None]
    assert abs(float(deviations.square().sum()) / (clouds * 9) / law.a - 1) < 4.5 * (2 / (9 * clouds)) ** 0.5 + 0.03


def test_replacement_alone_misses_the_conditional_law():
    """What the tests above would not let pass."""
    law = ExchangeableGaussian(a=0.5, c=8.0, dim=1)
    given = torch.linspace(0.2, 1.4, 6, dtype=torch.float64)[None, :, None].expand(1000, -1, -1)
    new = make(law, given, 16, hold=Hold(directions=0), seed=1)[:, 6:, 0]
    mean, covariance = gaussian_posterior(law, given[:1], 16)
    assert float(new.mean()) < 0.8 * float(mean.mean())
    assert float(new.mean(dim=1).var()) > 1.5 * float(covariance.mean())


def shapes_of(law, x):
    """The shape that each cloud's points have, (B,)."""
    one, own = torch.ones((1, 1, 1), dtype=torch.float64), torch.ones((*x.shape[:2], 1), dtype=torch.bool)
    return law.log_joint(x.double(), one, 0 * one, own).argmax(dim=1)


def test_completions_have_the_shape_of_the_given_points_through_the_levels():
    law, levels = three_shapes(), Subdivision.dyadic(64, 3, sde=SDE)
    given = law.sample(60, 16, generator(2), dtype=torch.float64)
    agree = {}
    for directions in (0, 3):
        new = make(law, given, 64, levels, hold=Hold(directions=directions), seed=1)[:, 16:]
        agree[directions] = (shapes_of(law, new) == shapes_of(law, given)).double().mean()
    # by chance 1/3; at the coarse level 4 of 16 particles are given
    assert float(agree[3]) > 0.85
    assert float(agree[3]) > float(agree[0]) + 0.15
    floors = torch.tensor([shape_error(law.sample(60, 48, generator(s)), law, seed=s + 9) for s in range(6)])
    # branching leaves copies correlated, and a few clouds stand between two shapes: see docs/conditioning.md
    assert shape_error(new.float(), law, seed=77) < 1.3 * floors.mean() + 4 * floors.std()


def test_completions_leave_independent_particles_alone():
    law, levels = five_components(), Subdivision.dyadic(64, 3, sde=SDE)
    given = law.means[:1].expand(64, 20, 3) + 0.01 * torch.randn(64, 20, 3, generator=generator(3))
    new = make(law, given, 64, levels)[:, 20:]
    plain = [
        generate_from_score(
            law.as_score(SDE), SDE, Langevin(num_steps=100), levels, Renoise(), dim=3, num_clouds=64, num_particles=44,
            generator=generator(s), dtype=torch.float64,
        )
        for s in (1, 2, 3, 4)
    ]  # fmt: skip
    fresh = law.sample(64, 44, generator(9), dtype=torch.float64)
    errors = torch.tensor([pooled_error(x, fresh) for x in plain])
    # as far from the law as clouds generated without given particles; four of them say how those scatter
    assert pooled_error(new, fresh) < errors.mean() + 5 * errors.std() + 0.01


@pytest.mark.parametrize(
    ("num_given", "num_particles"), [(0, 16), (1, 16), (15, 16), (16, 16), (5, 6), (3, 100), (60, 64), (50, 100)]
)
@pytest.mark.parametrize("hold", [Hold(), Hold(directions=0, resamplings=1)], ids=["correction", "resampling"])
def test_given_particles_are_never_moved_at_any_cardinality(num_given, num_particles, hold):
    law, levels = three_shapes(), Subdivision([8, 16, 32], [1.0, 0.6, 0.4])
    given = law.sample(2, num_given, generator(0))
    seen = []
    x = make(law, given, num_particles, levels, Langevin(num_steps=20), hold=hold,
             advance=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert x.shape == (2, num_particles, 3)
    assert torch.equal(x[:, :num_given], given)
    assert x.isfinite().all()
    if num_given < num_particles:
        total = 20 * (hold.resamplings + 1)
        assert seen == [(step, total) for step in range(1, total + 1)]
        # no new particle sits on a given one or on another
        assert torch.cdist(x, x).add(torch.eye(num_particles)).min() > 1e-4


def test_a_cloud_does_not_depend_on_the_batch():
    law, levels = three_shapes(), Subdivision.dyadic(32, 2, sde=SDE)
    given = law.sample(4, 10, generator(0), dtype=torch.float64)
    score, sampler = law.as_score(SDE), Langevin(num_steps=12)

    def run(rows, make_clouds, *levels):
        options = {"num_particles": 40, "hold": Hold(resamplings=1, jump=5.0), "generator": cloud_generators(5, rows)}
        return make_clouds(score, SDE, sampler, *levels, given[rows], **options)

    for how in ((complete, levels, Renoise()), (densify,)):
        # float64 sums in another order: 1e-16, divided by alpha(1) = 1/148 near t = 1 and carried through the levels
        assert torch.allclose(run([0, 1, 2, 3], *how)[2:], run([2, 3], *how), rtol=0, atol=1e-8)


def neighbour_distance(x):
    """Mean distance of a point to the nearest other of its cloud."""
    return sum(float(cKDTree(cloud).query(cloud, k=2)[0][:, 1].mean()) for cloud in x.numpy()) / len(x)


def test_densified_clouds_spread_like_independent_points():
    law, clouds, m, n = GaussianMixture([[0.0, 0.0]], 1.0), 12, 64, 640
    given = law.sample(clouds, m, generator(1), dtype=torch.float64)
    fresh = neighbour_distance(law.sample(clouds, n, generator(5), dtype=torch.float64))
    for keep in (True, False):
        x = densified(law, given, n, 40, keep=keep)
        assert x.shape == (clouds, n, 2)
        assert torch.equal(x[:, :m], given) == keep
        # measured: 0.96 to 0.98 of the distance between independent points, whatever M; a Poisson cloud of 640 points
        # scatters by 2 % in it, 12 clouds by less than 1 %
        assert 0.93 < neighbour_distance(x) / fresh < 1.05
    clumped = densified(law, given, n, 40, push=0.0)
    assert neighbour_distance(clumped) < 0.85 * fresh, "with no push the copies stay around their parents"


def test_densified_clouds_keep_the_law_of_a_point():
    law = five_components()
    given = law.sample(48, 32, generator(1), dtype=torch.float64)
    new = densified(law, given, 320)[:, 32:]
    fresh = law.sample(48, 288, generator(8), dtype=torch.float64)
    # new points know the components no better than the 48 x 32 given ones do: their sampling noise is the floor
    floors = torch.tensor([pooled_error(law.sample(48, 32, generator(s), dtype=torch.float64), fresh[:, :32])
                           for s in range(10, 18)])  # fmt: skip
    assert pooled_error(new, fresh) < floors.mean() + 4 * floors.std()


def test_densified_clouds_keep_their_shape():
    law = three_shapes()
    given = law.sample(24, 32, generator(1), dtype=torch.float64)
    new = densified(law, given, 320)[:, 32:]
    assert torch.equal(shapes_of(law, new), shapes_of(law, given))
    # a shape's components have spread 0.15: collapsed copies would have less, strays more
    z = shapes_of(law, given)
    for cloud, shape in zip(new, z.tolist(), strict=True):
        nearest = torch.cdist(cloud, law.shapes[shape].means).min(dim=1).values
        # mean distance of a point to its own centre: 0.15 sqrt(8 / pi) = 0.239; 288 points that remember 32 scatter 8 %
        assert 0.16 < float(nearest.mean()) < 0.32


def test_refining_without_keeping_removes_noise():
    law, g = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.05), generator(0)
    noisy = law.sample(8, 64, g, dtype=torch.float64)
    noisy = noisy + 0.15 * torch.randn(noisy.shape, generator=g, dtype=torch.float64)
    x = densified(law, noisy, 128, keep=False)
    distance = lambda x: torch.cdist(x, law.means.expand(8, -1, -1)).min(dim=2).values.mean()  # noqa: E731
    # a point of the law is at 0.05 sqrt(pi / 2) = 0.063 on average, a noisy one at 0.198
    assert float(distance(noisy)) > 0.18
    assert float(distance(x)) < 0.08


def test_kept_noise_makes_a_deterministic_path_and_fresh_noise_does_not():
    law, g = three_shapes(), generator(0)
    t, _, _ = at(0.0, 2)
    given, x = law.sample(2, 6, g, dtype=torch.float64), torch.randn(2, 8, 3, generator=g, dtype=torch.float64)
    for noise in ("kept", "fresh"):
        held = HeldScore(law.as_score(SDE), SDE, given, Hold(noise=noise, directions=0), generator(1))
        assert torch.equal(held(x, t), held(x, t)) == (noise == "kept")


def test_the_push_is_the_forward_kernel():
    x = pushed(torch.ones(1, 20000, 1, dtype=torch.float64), 0.2, 0.6, SDE, generator(0))
    alpha = SDE.alpha(torch.tensor([0.2, 0.6], dtype=torch.float64))
    ratio = float(alpha[1] / alpha[0])
    # standard errors of 20,000 draws, times 4.5
    assert float(x.mean()) == pytest.approx(ratio, abs=4.5 * (1 - ratio**2) ** 0.5 / 20000**0.5)
    assert float(x.var()) == pytest.approx(1 - ratio**2, rel=4.5 * (2 / 20000) ** 0.5)


def test_the_bound_holds_back_a_correction_that_its_covariance_does_not_explain():
    law, g = three_shapes(), generator(0)
    t, _, _ = at(-1.0, 2)
    given, x = 30 * torch.ones(2, 6, 3, dtype=torch.float64), torch.randn(2, 8, 3, generator=g, dtype=torch.float64)
    size = [
        float(HeldScore(law.as_score(SDE), SDE, given, Hold(trust=trust), generator(1))(x, t).norm())
        for trust in (0.5, 2.0, float("inf"))
    ]
    assert size[0] <= size[1] <= size[2]


def test_wrong_arguments_are_refused():
    law, given = three_shapes(), torch.zeros(2, 4, 3)
    for options, message in (
        ({"directions": -1}, "got -1"),
        ({"resamplings": 1.5}, "got 1.5"),
        ({"floor": -0.1}, "got -0.1"),
        ({"trust": 0.0}, "got 0.0"),
        ({"jump": 0.0}, "jump must be > 0 nats and finite, got 0.0"),
        ({"until": float("nan")}, "until must be a log-SNR in nats, got nan"),
        ({"share": 0.5}, "got 0.5"),
        ({"noise": "new"}, "got 'new'"),
    ):
        with pytest.raises(ValueError, match=message):
            Hold(**options)
    with pytest.raises(ValueError, match="at least the 4 given particles"):
        make(law, given, 3)
    with pytest.raises(ValueError, match=r"\(B, M, D\), got torch.int64"):
        make(law, given.long(), 8)
    with pytest.raises(ValueError, match="got a coordinate nan"):
        make(law, given / 0, 8)
    with pytest.raises(ValueError, match="num_steps=5 is too few for"):
        make(law, given, 8, sampler=Langevin(num_steps=5), hold=Hold(resamplings=1))
    with pytest.raises(ValueError, match="got clouds of none"):
        densified(law, given[:, :0], 8)
    with pytest.raises(ValueError, match="push must be >= 0 nats and finite, got -1"):
        densified(law, given, 8, push=-1.0)
    blind = lambda x, t, lengths=None: -x.detach()  # noqa: E731
    with pytest.raises(ValueError, match=r"directions=3 needs a score .* in x; directions=0 does without"):
        complete(blind, SDE, Langevin(num_steps=4), Subdivision([8], [1.0]), Renoise(), given, num_particles=8)
    with pytest.raises(ValueError, match="takes no lengths"):
        HeldScore(law.as_score(SDE), SDE, given, Hold())(given, torch.ones(2), lengths=torch.tensor([4, 4]))
