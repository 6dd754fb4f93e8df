import numpy as np
import pytest
import torch

from mfcdm.checks import check_whole


@pytest.mark.parametrize("value", [2, np.int64(2), torch.tensor(2)])
def test_whole_numbers_of_any_kind_are_taken(value):
    check_whole("count", value, 2)


@pytest.mark.parametrize("value", [1, -3, 2.0, 2.5, "2", None, float("nan")])
def test_anything_else_is_named(value):
    with pytest.raises(ValueError, match="count must be a whole number >= 2, got "):
        check_whole("count", value, 2)
