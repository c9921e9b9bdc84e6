"""Schedules as the SDK declares and describes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from holdfast import queue, registry, schedules, sync, task
from holdfast.errors import InvalidArgumentError, InvalidPayloadError
from holdfast.schedules import SchedulePayload
from holdfast.v1.payload_pb2 import Payload
from holdfast_scheduler import firing
from holdfast_scheduler import schedules as scheduler_side
from holdfast_scheduler.schedule_messages import new_schedule, schedule_message
from holdfast_scheduler.settings import Limits


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tasks", {})


def test_a_task_announces_its_schedule() -> None:
    @schedules.task(id="a", cron="0 3 * * *", timezone="Europe/Zurich", misfire="all", overlap="queue", ttl="1h")
    async def body(payload: SchedulePayload) -> None: ...

    @sync.schedules.task(cron="*/5 * * * *")
    def swept() -> None: ...

    @task(id="plain")
    async def plain() -> None: ...

    found = body.definition()
    assert (found.schedule.cron, found.schedule.timezone) == ("0 3 * * *", "Europe/Zurich")
    assert (found.schedule.misfire, found.schedule.overlap, found.ttl.seconds) == ("all", "queue", 3600)
    assert swept.task.definition().schedule.timezone == "UTC"
    assert registry.get("swept") is swept.task
    assert not plain.definition().HasField("schedule")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cron": "0 0 3 * * *"}, "has 6 fields; write five"),
        ({"cron": "@daily"}, "has 1 fields"),
        ({"cron": ""}, "cron: is empty"),
        ({"cron": 5}, "cron: 5 is not text"),
        ({"timezone": ""}, "timezone: is empty"),
        ({"misfire": "never"}, "misfire: 'never' is none of 'skip', 'latest', 'all'"),
        ({"overlap": None}, "overlap: None is none of 'allow', 'skip', 'queue', 'cancel_previous'"),
    ],
)
def test_what_cannot_be_declared(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        schedules.task(**{"cron": "0 3 * * *", **given})


async def test_what_cannot_be_created() -> None:
    for options, says in (
        ({"task": 5}, "task: 5 is not text"),
        ({"deduplication_key": ""}, "deduplication_key: is empty"),
        ({"priority": "high"}, "priority"),
        ({"external_id": "\0"}, "NUL"),
    ):
        with pytest.raises(InvalidArgumentError, match=says):
            await schedules.create(**{"task": "t", "cron": "* * * * *", **options})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="there is no option 'delay'; there are ttl, priority"):
        await schedules.create("t", cron="* * * * *", delay=5)  # type: ignore[call-arg]


def test_a_task_that_takes_no_payload_takes_that_of_a_schedule_only() -> None:
    @task(id="sweep")
    async def sweep() -> None: ...

    assert sweep.decode(Payload(data=b'{"timestamp":"2026-01-01T00:00:00Z"}', meta=firing.SCHEDULED)) is None
    with pytest.raises(InvalidPayloadError):
        sweep.decode(Payload(data=b'{"timestamp":"2026-01-01T00:00:00Z"}'))


def test_a_scheduled_task_can_be_triggered_by_hand() -> None:
    payload = SchedulePayload(timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    assert (payload.schedule_id, payload.last_timestamp, payload.upcoming) == ("", None, ())
    with pytest.raises(ValidationError):
        SchedulePayload(timestamp=datetime(2026, 1, 1))  # noqa: DTZ001


def test_everything_that_is_asked_for_comes_back() -> None:
    options = {
        "tags": ("a", "b"),
        "metadata": {"n": 1},
        "priority": 5.0,
        "queue": "q",
        "concurrency_key": "k",
        "max_attempts": 7,
        "version": "v1",
        "ttl": timedelta(minutes=1),
        "timeout": timedelta(hours=1),
        "max_duration": timedelta(seconds=30),
    }
    asked = schedules._message(
        task_id="t",
        cron="0 3 * * *",
        timezone="Asia/Tokyo",
        external_id="x",
        misfire="all",
        overlap="cancel_previous",
        options={**options, "queue": queue("q")},
    )
    stored = new_schedule(asked, Limits())
    found = schedules.of_message(schedule_message(stored))
    assert found.options == options
    assert (found.task_id, found.cron, found.timezone, found.external_id) == ("t", "0 3 * * *", "Asia/Tokyo", "x")
    assert (found.misfire, found.overlap, found.active, found.declared) == ("all", "cancel_previous", True, False)


def test_both_ends_know_the_same_policies() -> None:
    assert set(schedules._MISFIRES) == set(scheduler_side.MISFIRES) - {""}
    assert set(schedules._OVERLAPS) == set(scheduler_side.OVERLAPS) - {""}
    assert {name: int(value) for name, value in schedules._OVERLAPS.items()} == {
        name: value for name, value in scheduler_side.OVERLAPS.items() if name
    }
    assert {name: int(value) for name, value in schedules._MISFIRES.items()} == {
        name: value for name, value in scheduler_side.MISFIRES.items() if name
    }
