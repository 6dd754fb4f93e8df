"""A compiled network is the network, traced by a backend that computes as torch does."""

import warnings
from functools import partial

import pytest
import torch

from mfcdm.interaction import available_backends
from mfcdm.networks import ScoreNetwork, as_score, compiled
from mfcdm.sde import CosineVPSDE


@torch.no_grad()
@pytest.mark.parametrize("backend", [name for name in ("tiled", "native") if name in available_backends()])
def test_a_compiled_network_predicts_the_same_at_any_cardinality(backend, monkeypatch):
    torch.compiler.reset()  # graphs that other tests' networks have left
    graphs = []

    def as_it_is(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=as_it_is))
    torch.manual_seed(0)
    network = ScoreNetwork(width=16, depth=1, channels=4, num_moments=4, num_scales=2, backend=backend).double()
    traced = compiled(network)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of what cannot be traced
        for num_particles in (1, 17, 129):
            x = torch.randn(2, num_particles, 3, dtype=torch.float64)
            lengths = torch.tensor([num_particles, num_particles // 2])
            torch.testing.assert_close(traced(x, t, lengths=lengths), network(x, t, lengths=lengths))
            scores = [as_score(n, CosineVPSDE())(x, t) for n in (network, traced)]
            torch.testing.assert_close(*scores)
    assert graphs
