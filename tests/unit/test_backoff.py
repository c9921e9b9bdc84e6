"""Back-off: floor, ceiling, overflow, and the spread of runs that fail together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_scheduler.backoff import RECOVERY_BASE_US, RECOVERY_CEILING_US, recovery_delay, retry_delay

SECOND = 1_000_000
chances = st.floats(0, 1, exclude_max=True)


def delay(attempt: int, *, randomize: bool = False, chance: float = 0.0, factor: float = 2.0) -> int:
    return retry_delay(attempt, factor=factor, min_us=SECOND, max_us=60 * SECOND, randomize=randomize, chance=chance)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (100, 60)])
def test_the_base(attempt: int, seconds: int) -> None:
    assert delay(attempt) == seconds * SECOND


@pytest.mark.parametrize(
    ("attempt", "low", "high"), [(1, 1, 2), (2, 2, 4), (5, 16, 32), (6, 30, 60), (7, 30, 60), (1000, 30, 60)]
)
def test_the_bounds_of_the_spread(attempt: int, low: float, high: float) -> None:
    assert delay(attempt, randomize=True, chance=0.0) == low * SECOND
    assert delay(attempt, randomize=True, chance=0.999999999) == pytest.approx(high * SECOND, abs=1000)


def test_an_overflowing_power_is_the_ceiling() -> None:
    assert delay(100_000) == 60 * SECOND
    assert 30 * SECOND <= delay(100_000, randomize=True, chance=0.3) <= 60 * SECOND
    assert delay(100_000, factor=1e300) == 60 * SECOND


def test_a_factor_below_one_never_goes_below_the_floor() -> None:
    assert delay(50, randomize=True, chance=0.1, factor=0.5) >= SECOND


@given(
    attempt=st.integers(1, 1_000_000),
    factor=st.floats(1, 1e6),
    low=st.integers(0, 10**12),
    more=st.integers(0, 10**12),
    randomize=st.booleans(),
    chance=chances,
)
def test_no_delay_is_below_the_floor_or_above_the_ceiling(
    attempt: int, factor: float, low: int, more: int, randomize: bool, chance: float
) -> None:
    found = retry_delay(attempt, factor=factor, min_us=low, max_us=low + more, randomize=randomize, chance=chance)
    assert low <= found <= low + more


@given(
    attempt=st.integers(1, 2_000), factor=st.floats(1, 100), low=st.integers(SECOND, 10**9), one=chances, other=chances
)
def test_runs_that_fail_together_spread_out_at_every_attempt(
    attempt: int, factor: float, low: int, one: float, other: float
) -> None:
    def at(chance: float) -> int:
        return retry_delay(attempt, factor=factor, min_us=low, max_us=60 * low, randomize=True, chance=chance)

    width = at(1.0) - at(0.0)
    assert width >= low / 2  # also at the ceiling
    assert abs((at(one) - at(other)) - width * (one - other)) <= 2  # uniform


def test_a_ceiling_below_the_floor_is_the_floor() -> None:
    assert retry_delay(3, factor=2, min_us=9, max_us=3, randomize=True, chance=0.7) == 9


@given(recoveries=st.integers(1, 100_000), chance=chances)
def test_recoveries(recoveries: int, chance: float) -> None:
    found = recovery_delay(recoveries, chance=chance)
    if recoveries == 1:
        assert found == 0
    else:
        assert RECOVERY_BASE_US <= found <= RECOVERY_CEILING_US
