"""The plots show the part of the run that matters, and every seed's tokens."""

import pytest

from kdjax import plots


def test_the_untrained_model_does_not_set_the_y_range():
    points = [(0, 8.0), (10, 4.0), (50, 2.5), (100, 2.0)]
    low, high = plots._y_range(points, teacher=1.5)
    assert (low, high) == pytest.approx((1.4, 2.6))
    assert plots._y_range([], teacher=1.5) == pytest.approx((1.4, 1.6))


def test_calibration_bins_of_the_seeds_are_weighted_by_tokens():
    pooled = plots._pool(
        [
            {"confidence": 0.52, "accuracy": 0.4, "count": 30},
            {"confidence": 0.0, "accuracy": 0.0, "count": 0},
            {"confidence": 0.56, "accuracy": 0.8, "count": 10},
            {"confidence": 0.9, "accuracy": 0.8, "count": 5},
            {"confidence": 1.0, "accuracy": 0.9, "count": 5},
        ]
    )
    assert pooled == [
        (pytest.approx(0.53), pytest.approx(0.5), 40),
        (pytest.approx(0.95), pytest.approx(0.85), 10),
    ]
