"""What a schedule does with the instants that are due: the rules for missed ones and for runs that overlap.

Pure functions of their arguments.
"""

from __future__ import annotations

from typing import Final

from holdfast_scheduler import model as m

FIRE: Final = 1
"""The run is triggered."""
SKIP: Final = 2
"""The instant does not fire."""
HOLD: Final = 3
"""The instant waits for the end of the previous run."""
REPLACE: Final = 4
"""The previous run is canceled, and the run is triggered."""


def not_missed(policy: int, instants: list[int], now: int, grace_us: int) -> list[int]:
    """Which of the due instants, given oldest first, go on to the rule for overlaps.

    An instant is missed when it is late by more than the grace. SKIP: no missed one fires. LATEST: if all are missed,
    the latest one fires. ALL: all fire.
    """
    if policy == m.MISFIRE_ALL:
        return instants
    timely = [instant for instant in instants if now - instant <= grace_us]
    if not timely and policy == m.MISFIRE_LATEST:
        return instants[-1:]
    return timely


def on_overlap(policy: int, is_previous_open: bool, waiting: int, most_waiting: int) -> int:
    """What to do with an instant: FIRE, SKIP, HOLD or REPLACE. `waiting` instants wait already."""
    if policy == m.OVERLAP_QUEUE and (is_previous_open or waiting):
        return HOLD if waiting < most_waiting else SKIP
    if policy == m.OVERLAP_SKIP and is_previous_open:
        return SKIP
    if policy == m.OVERLAP_CANCEL_PREVIOUS and is_previous_open:
        return REPLACE
    return FIRE
