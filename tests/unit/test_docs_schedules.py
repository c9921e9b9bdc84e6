"""What docs/schedules.md shows works, and its numbers are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.executor_end import Scheduler
from holdfast import registry, schedules
from holdfast.v1.payload_pb2 import Payload
from holdfast_scheduler import cron, firing
from holdfast_scheduler.settings import Limits, Settings
from holdfast_worker.gate import GatedEventLoop

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "schedules.md").read_text()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(registry, "_tasks", {})
    [source] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "schedules.md", "exec"), found)
    return found


def test_the_task_of_the_page_runs(names: dict[str, Any]) -> None:
    report = names["nightly_report"]
    assert report.definition().schedule.cron == "0 3 * * *"
    loop = GatedEventLoop()
    try:
        scheduler = Scheduler(loop, report)
        scheduler.executor = None
        report.id = "task"
        document = {"timestamp": "2026-11-22T23:30:00Z", "timezone": "Europe/Zurich", "last_timestamp": None}
        scheduler.start(payload=Payload(data=json.dumps(document).encode(), meta=firing.SCHEDULED))
        ended = loop.run_until_complete(scheduler.to_end())
    finally:
        loop.close()
    assert json.loads(ended.completed.output.data) == "report of 23 November 2026"


async def test_the_call_of_the_page_is_one(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def create(*args: Any, **options: Any) -> None:
        asked.append((args, options))
        schedules._message(
            task_id=args[0], cron=options["cron"], timezone=options["timezone"], options={"tags": options["tags"]}
        )

    monkeypatch.setattr(schedules, "create", create)
    await names["customer_signed_up"]("c-7")
    assert asked[0][1]["external_id"] == "c-7"


def test_the_numbers_of_the_page() -> None:
    limits = Limits()
    assert f"more than {Settings().misfire_grace:g} seconds late" in TEXT
    assert f"of more than {limits.misfire_cap} the latest {limits.misfire_cap}" in TEXT
    assert f"Up to {limits.schedule_waiting} wait" in TEXT
    assert f"more than {cron.COUNTED:,} missed at once" in TEXT
    assert f"{limits.schedules:,} schedules per namespace" in TEXT
    assert firing.UPCOMING == 10
    assert "the next ten" in TEXT
