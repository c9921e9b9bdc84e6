from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Retry
from holdfast.errors import InvalidDurationError, InvalidRetryError


def test_defaults_are_those_of_the_design():
    message = Retry().to_message()
    assert (message.max_attempts, message.factor, message.randomize) == (3, 2.0, True)
    assert (message.min_timeout.seconds, message.max_timeout.seconds) == (1, 60)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_attempts": 0},
        {"max_attempts": 10_001},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"factor": 0.9},
        {"factor": math.nan},
        {"factor": math.inf},
        {"factor": "2"},
        {"min_timeout": 10, "max_timeout": 5},
        {"on": "ValueError"},
        {"abort_on": (ValueError, 3)},
    ],
)
def test_what_is_out_of_range_is_refused(fields):
    with pytest.raises(InvalidRetryError, match=r"Retry\."):
        Retry(**fields)


def test_durations_may_be_text():
    retry = Retry(min_timeout="500ms", max_timeout="1m30s")
    assert retry.min_timeout == timedelta(milliseconds=500)
    with pytest.raises(InvalidDurationError, match=r"Retry\.min_timeout"):
        Retry(min_timeout="soon")


@given(st.integers(1, 10_000), st.floats(1, 100), st.floats(0, 100), st.floats(0, 1000), st.floats(0, 1))
def test_no_delay_is_below_the_floor_or_above_the_ceiling(attempt, factor, low, more, spread):
    retry = Retry(factor=factor, min_timeout=low, max_timeout=low + more)
    floor, ceiling = retry.min_timeout.total_seconds(), retry.max_timeout.total_seconds()
    assert floor <= retry.delay_after(attempt, spread) <= ceiling + 1e-9


def test_delays_without_chance_grow_to_the_ceiling():
    retry = Retry(randomize=False, max_timeout=5)
    assert [retry.delay_after(n) for n in (1, 2, 3, 4, 9_999)] == [1, 2, 4, 5, 5]


def test_chance_spreads_at_the_ceiling_too():
    retry = Retry()
    assert retry.delay_after(100, 0.0) == 30
    assert retry.delay_after(100, 1.0) == 60


def test_classes_are_looked_up_through_causes_and_groups():
    retry = Retry(abort_on=(KeyError,))
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = KeyError("inner")
    assert retry.aborts(wrapped)
    assert retry.aborts(ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [KeyError()])]))
    assert not retry.aborts(ValueError())
    assert not retry.retries(wrapped)
    only = Retry(on=ConnectionError)
    assert only.retries(ConnectionResetError())
    assert not only.retries(ValueError())


def test_a_circle_of_causes_ends():
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert not Retry(abort_on=KeyError).aborts(one)
