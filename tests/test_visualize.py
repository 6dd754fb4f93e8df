import numpy as np
import pytest
import torch

from mfcdm.visualize import draw_clouds, project


def test_the_view_keeps_lengths_in_its_plane_and_up_is_up():
    points = np.random.default_rng(0).normal(size=(50, 3))
    flat, near = project(points)
    # an orthographic view is a rotation: the picture's two coordinates and the nearness keep all lengths
    assert np.allclose((flat**2).sum(axis=1) + near**2, (points**2).sum(axis=1))
    up, _ = project(np.array([[0.0, 1.0, 0.0]]))
    assert up[0, 0] == pytest.approx(0.0)
    assert up[0, 1] > 0.8


def test_a_picture_shows_every_cloud(tmp_path):
    rows = [[torch.randn(n, 3) for n in (1, 10, 20_000)], [torch.randn(5, 2)]]
    path = draw_clouds(tmp_path / "deep" / "clouds.png", rows, ["first", "second"])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one cloud"):
        draw_clouds(tmp_path / "a.png", [[]])
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        draw_clouds(tmp_path / "a.png", [[torch.zeros(4, 5)]])
