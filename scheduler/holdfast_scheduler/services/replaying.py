"""A new run with the inputs of an old one."""

from __future__ import annotations

from typing import Any, Final

from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem, TriggerOptions
from holdfast_scheduler import convert
from holdfast_scheduler.model import NewRun
from holdfast_scheduler.settings import Limits

_NOT_TAKEN_OVER: Final = ("delay", "delay_until", "debounce", "on_parent_end")
"""A replay starts now and has no parent."""


def replay_of(source: Any, run_id: str, limits: Limits, payload: Payload | None = None) -> NewRun:
    """The run to trigger, from a row of `reads.replay_source`; its `error` is set when it cannot be one."""
    item = TriggerItem(task_id=source.task, run_id=run_id)
    if payload is None:
        item.payload.MergeFromString(source.payload)
        item.fingerprint = source.fingerprint
    else:
        item.payload.CopyFrom(payload)
    if source.options:
        options = TriggerOptions.FromString(source.options)
        for name in _NOT_TAKEN_OVER:
            options.ClearField(name)
        item.options.CopyFrom(options)
    run = convert.new_run(item, limits=limits)
    run.is_replay = True
    return run
