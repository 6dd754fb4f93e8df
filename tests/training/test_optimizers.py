import pytest
import torch
from torch import nn

from mfcdm.networks import ScoreNetwork
from mfcdm.training.optimizers import build_optimizers, load_moments, read_moments
from tests.laws import generator


def step(network, optimizers, seed):
    """One step along random gradients."""
    random = generator(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
    for optimizer in optimizers:
        optimizer.step()


def small():
    torch.manual_seed(0)
    return ScoreNetwork(width=16, depth=2, num_moments=4, num_scales=2, channels=4)


def test_every_parameter_has_one_optimizer():
    network = small()
    for name, count in (("muon", 2), ("adamw", 1)):
        optimizers = build_optimizers(network, name, 1e-2, 0.0)
        assert len(optimizers) == count
        owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(owned) == sorted(id(p) for p in network.parameters())


def test_muon_has_no_matrix_at_the_network_s_ends():
    network = small()
    taken = {id(matrix) for matrix in network.hidden_matrices()}
    ends = [*network.embed.parameters(), *network.embed_time.parameters(), *network.out.parameters()]
    assert taken
    assert not taken & {id(parameter) for parameter in ends}
    assert all(parameter.ndim == 2 for parameter in network.parameters() if id(parameter) in taken)


def test_a_step_of_muon_has_all_singular_values_alike():
    network = small()
    matrix = network.blocks[0].mlp[0].weight  # (64, 16)
    before = matrix.detach().clone()
    (random,) = torch.randn(1, 64, 16, generator=generator(0)) * torch.logspace(-2, 0, 16)  # steep: 1 to 100
    matrix.grad = random
    for optimizer in build_optimizers(network, "muon", 1e-2, 0.0):
        optimizer.step()
    moved = torch.linalg.svdvals(matrix.detach() - before)
    # Five steps of the iteration bring singular values from 0.01 to 1 into [0.5, 1.5] or so of one another.
    assert float(moved.max() / moved.min()) < 3.0
    assert float(torch.linalg.svdvals(random).max() / torch.linalg.svdvals(random).min()) > 30.0
    # The root mean square of a step is that of AdamW's, 0.2 of the learning rate, within the same factor.
    assert 0.5 < float((matrix.detach() - before).square().mean().sqrt()) / (0.2 * 1e-2) < 1.5


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_the_moments_are_all_that_a_step_depends_on(name):
    one, other = small(), small()
    run, resumed = (build_optimizers(network, name, 1e-2, 0.0) for network in (one, other))
    step(one, run, 0)
    other.load_state_dict(one.state_dict())
    load_moments(other, resumed, read_moments(one, run))
    for network, optimizers in ((one, run), (other, resumed)):
        step(network, optimizers, 1)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("key", ["nobody.exp_avg", "out.weight.exp_avg"])
def test_foreign_moments_are_refused(key):
    network = small()
    with pytest.raises(ValueError, match=key):
        load_moments(network, build_optimizers(network, "muon", 1e-2, 0.0), {key: torch.zeros(2, 2)})


def test_a_network_that_names_no_matrices_is_left_to_adamw():
    (optimizer,) = build_optimizers(nn.Linear(3, 3), "muon", 1e-2, 0.0)
    assert isinstance(optimizer, torch.optim.AdamW)
