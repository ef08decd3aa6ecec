"""Checks of arguments."""

import numpy as np
import pytest

from sb3_reptile.replay.checks import check_whole_number


@pytest.mark.parametrize("value", [2, 10**12, np.int64(2), np.uint8(2)])
def test_whole_numbers_of_python_and_numpy_are_taken(value):
    check_whole_number("keep", value, least=2)


@pytest.mark.parametrize("value", [1, -1, 2.0, np.float64(2), True, np.True_, "2", None])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=r"keep must be a whole number >= 2, got "):
        check_whole_number("keep", value, least=2)
