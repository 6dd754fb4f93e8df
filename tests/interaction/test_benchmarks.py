"""The peers that the benchmarks measure compute what they say, and the neighbours that they count are there."""

import importlib
from pathlib import Path

import pytest
import torch

from mfcdm.interaction.reference import ball_convolution_reference

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def sphere(num_points):
    x = torch.randn(2, num_points, 3, generator=torch.Generator().manual_seed(0))
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "method", ["tiled", "dense torch", "scaled_dot_product_attention", "flex_attention", "neighbour list", "keops"]
)
def test_a_peer_computes_its_formula(script, monkeypatch, method):
    peers, interaction = script("interaction_peers"), script("interaction")
    if method == "keops":
        pytest.importorskip("pykeops")
    if method == "flex_attention":  # its formula only: torch has no compiled backward pass on a CPU
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    x, radius = sphere(256), 0.4
    v = torch.randn(2, 4, 256, 16, generator=torch.Generator().manual_seed(1))
    problem = peers.Problem(x, v, radius * torch.linspace(1 / 8, 3 / 4, 4), radius, 2**30)
    assert peers.missing(method, "cuda" if method == "flex_attention" else "cpu") is None
    out = peers.METHODS[method](problem)(x, v, problem.bandwidth)
    expected = interaction.exact(method, problem, torch.arange(256))
    # float32 sums of 256 numbers of order 1, exponents up to 1 / (2 b^2) = 200 of which attention knows to 200 eps
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-4)


def test_what_would_take_too_much_memory_is_not_run(script):
    peers = script("interaction_peers")
    x = sphere(256)
    problem = peers.Problem(x, torch.zeros(2, 4, 256, 16), torch.ones(4), 0.4, 2**10)
    for method in ("dense torch", "neighbour list"):
        with pytest.raises(peers.NotRun, match="GiB"):
            peers.METHODS[method](problem)


def test_exact_rows_are_those_of_the_definition(script):
    interaction, peers = script("interaction"), script("interaction_peers")
    x, v = sphere(100), torch.randn(2, 4, 100, 16, generator=torch.Generator().manual_seed(1))
    problem = peers.Problem(x, v, torch.full((4,), 0.2), 0.4, 2**30)
    rows = torch.tensor([0, 17, 99])
    whole = ball_convolution_reference(x.double(), v.double(), problem.bandwidth.double(), radius=0.4)
    # float64 sums in another order
    torch.testing.assert_close(interaction.exact("native", problem, rows), whole[:, :, rows], rtol=0, atol=1e-15)


def test_neighbours_are_the_others_within_the_radius(script):
    x = sphere(80)
    radius = torch.linspace(0.4, 0.6, len(x))  # each cloud has its own
    found = script("neighbours").neighbours(x, radius)
    distances = torch.cdist(x.double(), x.double())
    assert found.tolist() == ((distances < radius[:, None, None]).sum(-1) - 1).flatten().tolist()
    assert found.max() > found.min()


@pytest.mark.parametrize("num_points", [64, 300])
def test_the_table_of_neighbours_has_each_moment_of_each_level(script, num_points):
    neighbours = script("neighbours")
    levels = neighbours.Subdivision.dyadic(num_points, 2)
    network = neighbours.ScoreNetwork(radius=(0.4, 2.0))
    rows = list(neighbours.table(neighbours.clouds_of("shapes", 3, num_points), levels, network))
    assert [(row["level"], row["moment"]) for row in rows] == [(k, m) for k in (0, 1) for m in neighbours.MOMENTS]
    assert all(0 <= row["tenth"] <= row["median"] <= row["nine_tenths"] < row["particles"] for row in rows)
    assert all((row["radius"] == "") == (row["moment"] == "all") for row in rows)
    assert all(0.4 < row["radius"] <= 2 for row in rows if row["moment"] != "all")


def test_the_plot_shows_what_was_run_by_cloud(script, monkeypatch, tmp_path):
    table, picture = tmp_path / "table.csv", tmp_path / "pictures" / "interaction.png"
    rows = [
        "at,method,points,clouds,pass,seconds,mib,status,hardware",
        "fixed radius,native,512,4,forward,0.4,8,ok,this one",
        "fixed radius,native,1024,1,forward,0.3,16,ok,this one",
        "fixed radius,native,1024,1,forward+backward,,,not run: about 90 s,this one",
        "fixed radius,native,512,4,forward+backward,0.8,16,ok,this one",
        "fixed radius,keops,512,,,,,not run: pykeops is not installed,this one",
    ]
    table.write_text("\n".join(rows))
    plot = script("plot_interaction")
    monkeypatch.setattr("sys.argv", ["plot_interaction.py", "--table", str(table), "--output", str(picture)])
    plot.main()
    assert picture.stat().st_size > 1000
    with table.open() as file:
        read = list(plot.csv.DictReader(file))
    assert plot.lines_of(read, "fixed radius", "forward seconds") == {"native": [(512, 0.1), (1024, 0.3)], "keops": []}
    assert plot.lines_of(read, "fixed radius", "forward+backward mib") == {"native": [(512, 4)], "keops": []}
