from __future__ import annotations

import math
from datetime import timedelta

import pytest

from holdfast import durations
from holdfast.errors import HoldfastError, InvalidDurationError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1m30s", 90),
        ("60s", 60),
        ("5m", 300),
        ("24h", 86400),
        ("3d", 259200),
        ("1w", 604800),
        ("250ms", 0.25),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        (2, 2),
        (0.5, 0.5),
        (0, 0),
        (timedelta(minutes=2), 120),
    ],
)
def test_what_a_duration_means(given, seconds):
    assert durations.parse(given) == timedelta(seconds=seconds)
    assert durations.from_message(durations.to_message(given)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "given",
    ["", "  ", "5", "m", "5x", "1m1m", "-5s", "5s!", "1e3s", "٣s", -1, math.nan, math.inf, -math.inf, True, None, [],
     timedelta(seconds=-1), "40000d", 1e300, timedelta.max],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_its_name(given):
    with pytest.raises(InvalidDurationError, match="ttl") as caught:
        durations.parse(given, "ttl")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, HoldfastError)
