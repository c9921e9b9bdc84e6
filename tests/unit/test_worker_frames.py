"""What a commit brings is cut to what frames carry, and put together again on the other side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.v1 import worker_service_pb2 as w
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import Checkpoint
from holdfast_scheduler import ids
from holdfast_scheduler import model as m
from holdfast_scheduler.settings import Limits
from holdfast_scheduler.worker_frames import frames, held_answer, report
from holdfast_worker.executor import Executor

RUN = ids.new_id()
LARGEST = 4 * 1024 * 1024 - 1024


def settled(place: int, items: int, each: int) -> m.Checkpoint:
    """A batch whose items returned so many bytes."""
    output = Payload(data=b"x" * each).SerializeToString()
    entries = [m.BatchEntry(ids.new_id(), False, m.COMPLETED, output, None) for _ in range(items)]
    found = m.Checkpoint(RUN, place, "i", m.BATCH, "n", m.SUCCEEDED, b"", place, 1, False)
    found.entries = entries
    return found


def joined(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    executor: Any = object.__new__(Executor)
    executor._parts = {}
    return [whole for one in checkpoints for whole in executor._whole(RUN, 3, [one])]


def of_frames(sent: list[w.ConnectResponse]) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    for frame in sent:
        assert frame.ByteSize() <= LARGEST
        found += [update.checkpoint for update in frame.held_answer.updates]
        found += [update.checkpoint for update in frame.delivery.updates]
        found += [one for resume in frame.delivery.resumes for one in resume.settled]
        found += [one for start in frame.delivery.starts for one in start.checkpoints]
        found += frame.checkpoint_page.checkpoints
    return found


@pytest.mark.parametrize("way", ["update", "resume", "start", "held"])
def test_results_that_no_frame_carries_arrive_whole(way: str) -> None:
    checkpoints = [settled(1, 40, 200_000), settled(2, 2, 1_000_000), settled(3, 1, 1_000_000), settled(4, 3, 10)]
    delivery = m.Delivery()
    # The names of a run's and an order's fields that frames read.
    run: Any = SimpleNamespace(
        id=RUN,
        fence=3,
        task="t",
        attempt=1,
        recoveries=0,
        last_seq=4,
        settled=4,
        queue="q",
        max_attempts=1,
        version="v",
    )
    run.lane = ""
    inputs = m.Inputs(b"", [], None, None, None, RUN, None, 0, 1, False)
    order = m.Order(run, inputs, checkpoints, b"", b"", None, False)
    if way == "resume":
        delivery.resumes = [order]
    elif way == "start":
        delivery.starts = [order]
    else:
        delivery.updates = [(RUN, 3, one) for one in checkpoints]
    sent = [held_answer(delivery)] if way == "held" else []
    sent += frames(delivery, 0, 1, 0)
    found = joined(of_frames(sent))
    assert [(one.seq, one.settled_order, len(one.batch_entries)) for one in found] == [
        (1, 1, 40),
        (2, 2, 2),
        (3, 3, 1),
        (4, 4, 3),
    ]
    for one, checkpoint in zip(found, checkpoints, strict=True):
        assert one.kind == m.BATCH
        assert not one.more_batch_entries
        assert [e.run_id for e in one.batch_entries] == [ids.to_text(ids.RUN, e.run_id) for e in checkpoint.entries]  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(("limit_s", "used_s", "left_s"), [(None, 5, None), (60, 0, 60), (60, 45, 15), (60, 70, 0.001)])
def test_a_start_says_what_is_left_of_max_duration(limit_s: float | None, used_s: float, left_s: float | None) -> None:
    run = m.Run(
        RUN,
        "t",
        "",
        "q",
        "",
        0,
        m.EXECUTING,
        0,
        1,
        3,
        0,
        2,
        0,
        0,
        0,
        0,
        0,
        None,
        0,
        None,
        None,
        None,
        None,
        0,
        None,
        0,
        False,
    )
    inputs = m.Inputs(b"", [], None, None, None, RUN, None, 0, 0, False)
    order = m.Order(run, inputs, [], executed_us=round(used_s * 1e6))
    if limit_s is not None:
        order.max_duration_us = round(limit_s * 1e6)
    [frame] = frames(m.Delivery(starts=[order]), 0, 1, 0)
    [start] = frame.delivery.starts
    assert start.HasField("max_duration") == (left_s is not None)
    assert left_s is None or start.max_duration.ToTimedelta().total_seconds() == left_s


def wait_of(status: int, due_at: int) -> m.Checkpoint:
    return m.Checkpoint(RUN, 1, "i", m.WAIT, "", status, b"", 1, 1, False, due_at=due_at)


@pytest.mark.parametrize(
    ("checkpoints", "after_us"),
    [
        ([wait_of(m.SUCCEEDED, 5_000_030), wait_of(m.SUCCEEDED, 5_000_070)], 70),
        ([wait_of(m.SUCCEEDED, 4_999_999)], 0),
        ([wait_of(m.PENDING, 5_000_030)], 0),
        ([wait_of(m.ABANDONED, 5_000_030)], 0),
        ([wait_of(m.SUCCEEDED, 3_600_000_000)], 999_999),
        ([], 0),
    ],
)
def test_a_wait_that_was_ended_ahead_of_its_instant_is_held_until_then(
    checkpoints: list[m.Checkpoint], after_us: int
) -> None:
    """Whatever the clocks say, for less than a second."""
    run: Any = SimpleNamespace(id=RUN, fence=3)
    (frame,) = frames(m.Delivery(resumes=[m.Order(run, None, checkpoints)]), 0, 1, 5_000_000)
    (resume,) = frame.delivery.resumes
    assert resume.after.ToMicroseconds() == after_us
    assert resume.HasField("after") == bool(after_us)


def test_a_refusal_does_not_overtake_the_resume_that_makes_it_stale() -> None:
    run: Any = SimpleNamespace(id=RUN, fence=3)
    other = ids.new_id()
    delivery = m.Delivery(resumes=[m.Order(run, None, [])])
    for run_id in (RUN, other):
        delivery.refused.append(m.Refusal(run_id, 2, 9, m.REFUSED_STALE))
    (frame,) = frames(delivery, 5, 1, 0)
    assert [one.run_id for one in frame.delivery.committed.refused] == [other]
    assert frame.delivery.committed.up_to == 5


def test_a_batch_that_is_sent_anew_is_not_taken_twice() -> None:
    delivery = m.Delivery(updates=[(RUN, 3, settled(1, 40, 200_000))])
    parts = of_frames(list(frames(delivery, 0, 1, 0)))
    assert len(parts) > 3
    again = [Checkpoint.FromString(part.SerializeToString()) for part in parts]
    (found,) = joined([*parts[:3], *again])
    assert len(found.batch_entries) == 40


@pytest.mark.parametrize(
    ("asked_at", "sent_at", "age"),
    [(5_000, 9_000, 4_000), (0, 9_000, 0), (5_000, 0, 0), (9_000, 5_000, 0), (1, 2**64 - 1, Limits().duration_us)],
    ids=["said", "not said when it was asked", "not said when it was sent", "impossible", "absurd"],
)
def test_how_old_a_call_was_when_it_was_sent(asked_at: int, sent_at: int, age: int) -> None:
    record = w.CheckpointRecord(seq=1, asked_at_us=asked_at)
    record.wait.delay.FromMilliseconds(1)
    found = report(w.Report(run_id=RUN, fence=1, number=1, records=[record]), Limits(), sent_at)
    assert not found.invalid
    assert found.records[0].age_us == age


@pytest.mark.parametrize("around", [4_000, 4_200])
@pytest.mark.parametrize("kind", ["output", "step"])
def test_what_surrounds_the_data_of_a_small_result_is_bounded(kind: str, around: int) -> None:
    payload = Payload(data=b"1", meta={"key": "x" * around})
    message = w.Report(run_id=RUN, fence=1, number=1)
    if kind == "output":
        message.completed.output.CopyFrom(payload)
    else:
        message.records.add(seq=1, identity="step:s", name="s").step.value.CopyFrom(payload)
    assert ("payload_frame" in report(message, Limits()).invalid) == (around > 4_096)
