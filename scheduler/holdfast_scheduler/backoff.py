"""How long to wait before the next attempt or recovery. Pure: randomness is an argument in [0, 1)."""

from __future__ import annotations

from typing import Final

RECOVERY_BASE_US: Final = 1_000_000
"""Base delay before the second recovery of a run; the first is at once."""
RECOVERY_CEILING_US: Final = 60_000_000
"""No recovery waits longer than this."""


def retry_delay(attempt: int, *, factor: float, min_us: int, max_us: int, randomize: bool, chance: float) -> int:
    """Microseconds between the end of `attempt` (from 1) and the next one.

    The base is b = min(max, min · factor^(attempt-1)). Without `randomize` the delay is b; with it, uniform in
    [lo, hi] where hi = min(max, 2b) and lo = max(min, hi/2), so that no delay is below the floor or above the ceiling
    and many runs that fail at one instant spread out at every attempt, at the ceiling too. Why spread at all: Marc
    Brooker, "Exponential Backoff And Jitter".
    """
    max_us = max(max_us, min_us)
    try:
        base = max(float(min_us), min(float(max_us), min_us * factor ** (attempt - 1)))
    except OverflowError:
        base = float(max_us)
    if not randomize:
        return round(base)
    high = min(float(max_us), 2 * base)
    low = min(max(float(min_us), high / 2), high)
    return round(low + (high - low) * chance)


def recovery_delay(recoveries: int, *, chance: float) -> int:
    """Microseconds before a run whose worker was lost for the `recoveries`-th time (from 1) is dispatched again.

    The first recovery is at once: most losses are a deploy or a machine, not the run. Later ones back off, because a
    run that kills its workers must not kill all of them.
    """
    if recoveries <= 1:
        return 0
    return retry_delay(
        recoveries - 1,
        factor=2.0,
        min_us=RECOVERY_BASE_US,
        max_us=RECOVERY_CEILING_US,
        randomize=True,
        chance=chance,
    )
