"""What docs/hooks.md shows works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.executor_end import Scheduler
from holdfast import _hooks, registry
from holdfast.v1.payload_pb2 import Payload
from holdfast_worker.gate import GatedEventLoop

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_example_of_the_hooks_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hooks.everywhere, "by_event", {})
    monkeypatch.setattr(registry, "_tasks", {})
    text = (DOCS / "hooks.md").read_text()
    [source] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "hooks.md", "exec"), names)
    loop = GatedEventLoop()
    try:
        scheduler = Scheduler(loop, names["import_orders"])
        scheduler.executor = None
        names["import_orders"].id = "task"
        scheduler.start(payload=Payload(data=b'["a", "b"]'))
        report = loop.run_until_complete(scheduler.to_end())
    finally:
        loop.close()
    assert json.loads(report.completed.output.data) == 2
    assert [line.message for line in report.logs] == ["importing", "attempt over"]


def test_the_hooks_page_names_every_hook() -> None:
    text = (DOCS / "hooks.md").read_text()
    assert [event for event in _hooks.EVENTS if f"`{event}`" not in text] == []
