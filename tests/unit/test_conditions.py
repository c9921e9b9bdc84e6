"""The Python form of a list's conditions says what the scheduler's filter reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from holdfast import RunStatus, idempotency_keys
from holdfast.errors import InvalidArgumentError
from holdfast.filters import Conditions, of_runs
from holdfast_scheduler import ids, model
from holdfast_scheduler.filter import RunFilter, parse_run_filter

RAW = ids.new_id()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOON_US = 1_769_860_800_000_000


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, RunFilter()),
        ({"status": RunStatus.FAILED, "task": None}, RunFilter(status=model.FAILED)),
        ({"status": "FAILED", "task": 'a "b"', "version": "v"}, RunFilter(model.FAILED, task='a "b"', version="v")),
        ({"status": ["FAILED", RunStatus.CRASHED]}, RunFilter(statuses=(model.FAILED, model.CRASHED))),
        ({"status": [RunStatus.CRASHED]}, RunFilter(status=model.CRASHED)),
        ({"queue": "q", "tag": "t"}, RunFilter(queue="q", tag="t")),
        ({"schedule": ids.to_text(ids.SCHEDULE, RAW)}, RunFilter(schedule=RAW)),
        ({"batch": ids.to_text(ids.BATCH, RAW), "parent": ids.run_text(RAW)}, RunFilter(batch=RAW, parent=RAW)),
        ({"created_after": NOON, "created_before": NOON}, RunFilter(created_after=NOON_US, created_before=NOON_US)),
        ({"ended_after": NOON, "ended_before": NOON}, RunFilter(ended_after=NOON_US, ended_before=NOON_US)),
        ({"task": "t", "key": "one text"}, RunFilter(task="t", key=("one text",))),
        ({"task": "t", "key": idempotency_keys.create(["a", 1, True])}, RunFilter(task="t", key=("a", 1, True))),
        (
            {"metadata": {"page": 3, "a.b": 'x "y"', "flag": False, "none": None, "text": "3", "part": 0.5}},
            RunFilter(
                metadata={
                    ("page",): 3,
                    ("a", "b"): 'x "y"',
                    ("flag",): False,
                    ("none",): None,
                    ("text",): "3",
                    ("part",): 0.5,
                }
            ),
        ),
    ],
)
def test_every_condition(conditions: Conditions, expected: RunFilter) -> None:
    assert parse_run_filter(of_runs(conditions), 4096) == expected


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"stauts": "FAILED"}, "stauts: is no condition.*status, task"),
        ({"key": "k"}, "name the task too"),
        ({"status": []}, "neither a status nor a list"),
        ({"task": 3}, "task: 3 is not text"),
        ({"metadata": {"a..b": 1}}, "is not a path"),
        ({"metadata": {"a = b": 1}}, "is not a path"),
        ({"metadata": {"a": [1]}}, r"\[1\] is not a text, a number"),
        ({"created_after": NOON.replace(tzinfo=None)}, "time zone"),
    ],
)
def test_wrong_conditions_are_told(conditions: Conditions, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        of_runs(conditions)
