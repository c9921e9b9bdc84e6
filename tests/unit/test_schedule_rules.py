"""The rules for missed instants and overlapping runs, cell by cell."""

from __future__ import annotations

import pytest

from holdfast_scheduler import model as m
from holdfast_scheduler.schedule_rules import FIRE, HOLD, REPLACE, SKIP, not_missed, on_overlap

NOW, GRACE = 1_000, 60
LATE, LATER, EDGE, TIMELY = 100, 900, NOW - GRACE, NOW


@pytest.mark.parametrize(
    ("policy", "instants", "fires"),
    [
        (m.MISFIRE_SKIP, [TIMELY], [TIMELY]),
        (m.MISFIRE_SKIP, [EDGE], [EDGE]),
        (m.MISFIRE_SKIP, [EDGE - 1], []),
        (m.MISFIRE_SKIP, [LATE, LATER], []),
        (m.MISFIRE_SKIP, [LATE, LATER, EDGE, TIMELY], [EDGE, TIMELY]),
        (m.MISFIRE_LATEST, [TIMELY], [TIMELY]),
        (m.MISFIRE_LATEST, [LATE], [LATE]),
        (m.MISFIRE_LATEST, [LATE, LATER], [LATER]),
        (m.MISFIRE_LATEST, [LATE, LATER, EDGE, TIMELY], [EDGE, TIMELY]),
        (m.MISFIRE_ALL, [TIMELY], [TIMELY]),
        (m.MISFIRE_ALL, [LATE, LATER], [LATE, LATER]),
        (m.MISFIRE_ALL, [LATE, LATER, TIMELY], [LATE, LATER, TIMELY]),
    ],
)
def test_missed_instants(policy: int, instants: list[int], fires: list[int]) -> None:
    assert not_missed(policy, instants, NOW, GRACE) == fires


@pytest.mark.parametrize(
    ("policy", "is_open", "waiting", "action"),
    [
        (m.OVERLAP_ALLOW, False, 0, FIRE),
        (m.OVERLAP_ALLOW, True, 0, FIRE),
        (m.OVERLAP_ALLOW, True, 2, FIRE),
        (m.OVERLAP_SKIP, False, 0, FIRE),
        (m.OVERLAP_SKIP, True, 0, SKIP),
        (m.OVERLAP_SKIP, True, 2, SKIP),
        (m.OVERLAP_QUEUE, False, 0, FIRE),
        (m.OVERLAP_QUEUE, True, 0, HOLD),
        (m.OVERLAP_QUEUE, True, 1, HOLD),
        (m.OVERLAP_QUEUE, True, 2, SKIP),
        (m.OVERLAP_CANCEL_PREVIOUS, False, 0, FIRE),
        (m.OVERLAP_CANCEL_PREVIOUS, True, 0, REPLACE),
        (m.OVERLAP_CANCEL_PREVIOUS, True, 2, REPLACE),
    ],
)
def test_overlapping_runs(policy: int, is_open: bool, waiting: int, action: int) -> None:
    assert on_overlap(policy, is_open, waiting, 2) == action
