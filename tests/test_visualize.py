import numpy as np
import pytest
import torch
from matplotlib.image import imread as read_png

from mfcdm.visualize import draw_clouds, project
from tests.laws import generator


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


def test_marked_points_are_red_and_columns_share_a_window(tmp_path):
    part = torch.rand(400, 2, generator=generator(0))
    rows = [[part], [torch.cat((part, torch.rand(400, 2, generator=generator(1)) + torch.tensor([1.5, 0.0])))]]
    reds = []
    for name, options in (("plain", {}), ("marked", {"marked": [[400], [400]], "aligned": True})):
        picture = read_png(draw_clouds(tmp_path / f"{name}.png", rows, **options))[..., :3]
        red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.4) & (picture[..., 2] < 0.4)
        reds.append(red)
    assert not reds[0].any()
    height = len(reds[1]) // 2
    top, bottom = (np.nonzero(half.any(axis=0))[0] for half in (reds[1][:height], reds[1][-height:]))
    # the same points in the same window fill the same columns of pixels, up to the dots' size, which their number sets
    assert np.abs(top[[0, -1]] - bottom[[0, -1]]).max() <= 3
    assert top[-1] < 0.55 * reds[1].shape[1]  # the left half of what the lower cloud spans


def test_a_row_is_as_high_as_its_highest_cloud(tmp_path):
    flat, tall = torch.rand(500, 2, generator=generator(0)) * torch.tensor([1.0, 0.5]), torch.rand(500, 2)
    heights = [
        read_png(draw_clouds(tmp_path / f"{name}.png", [row], inches=2.0)).shape[0]
        for name, row in (("flat", [flat, flat]), ("mixed", [flat, tall]))
    ]
    # 0.5 high and 1 wide, a quarter and an eighth of margin
    assert heights[0] / heights[1] == pytest.approx(0.5 * 1.25 / 1.12, abs=0.03)
