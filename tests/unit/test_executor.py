"""The executor as a process of its own, on a real link."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.v1 import worker_service_pb2 as wire
from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse
from holdfast_worker import link as links
from holdfast_worker.executor import MAX_BODIES

TARGET = """
import asyncio, os, sys
from holdfast import metadata, step, task, wait
from holdfast.errors import TooLargeError

@task(id="double")
async def double(payload: int) -> int:
    return payload * 2

@task(id="threaded")
def threaded(payload: int) -> str:
    return f"{payload} in a thread"

@task(id="stepper")
async def stepper(payload: int) -> list[int]:
    return await asyncio.gather(*(step("square", square, n) for n in range(payload)))

def square(n: int) -> int:
    return n * n

@task(id="sink")
async def sink(payload: str) -> None: ...

@task(id="triggerer")
async def triggerer(payload: list[int]) -> None:
    await asyncio.gather(*(sink.trigger("x" * payload[1]) for _ in range(payload[0])))

@task(id="batcher")
async def batcher(payload: list[int]) -> str:
    try:
        await sink.batch_trigger_and_wait(["x" * payload[1]] * payload[0])
    except TooLargeError as error:
        return str(error)

@task(id="chatterer")
async def chatterer(payload: int) -> None:
    for n in range(payload // 200_000):
        metadata.set("key", str(n) + "x" * 200_000)
        metadata.append("list", 1)

@task(id="parks")
async def parks(payload: str) -> None:
    try:
        await wait.for_(hours=1)
    finally:
        print("CLEANUP", flush=True)
"""


class Process:
    """An executor and the supervisor's end of its link."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        ours, theirs = links.make_pair()
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast_worker.executor", "--link-fd", str(fd), *arguments],
                pass_fds=[fd],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd,
            )
        ours.settimeout(30)
        self.socket = ours
        self._decoder = links.FrameDecoder()
        self._frames: list[ConnectRequest] = []

    def send(self, **frame: Any) -> None:
        self.socket.sendall(links.encode([ConnectResponse(**frame).SerializeToString()]))

    def deliver(self, **parts: Any) -> None:
        self.send(delivery=wire.Delivery(**parts))

    def receive(self) -> ConnectRequest:
        while not self._frames:
            data = self.socket.recv(65536)
            assert data, "the executor ended its link"
            self._frames += [ConnectRequest.FromString(frame) for frame in self._decoder.feed(data)]
        return self._frames.pop(0)

    def receive_reports(self) -> wire.Reports:
        while True:
            frame = self.receive()
            if frame.HasField("reports"):
                return frame.reports

    def start(self, task: str, payload: bytes = b"null", run: int = 1, **fields: Any) -> None:
        start = wire.Start(run_id=run.to_bytes(16, "big"), fence=1, attempt=1, task_id=task, **fields)
        start.payload.data = payload
        self.deliver(starts=[start])

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(*arguments: str, source: str = TARGET) -> Process:
        (tmp_path / "tasks_of_test.py").write_text(source)
        made.append(Process(*arguments, "tasks_of_test.py", cwd=tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.socket.close()
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def hello(executor: Process) -> wire.Hello:
    frame = executor.receive()
    assert frame.HasField("hello")
    executor.send(welcome=wire.Welcome(limits=wire.Limits(payload_bytes=1 << 20, step_result_bytes=1 << 18)))
    return frame.hello


def test_it_says_hello_and_runs_async_and_blocking_tasks(execute: Callable[..., Process]) -> None:
    executor = execute()
    said = hello(executor)
    assert {task.id for task in said.tasks} >= {"double", "threaded", "stepper", "parks"}
    assert said.slots == MAX_BODIES
    executor.start("double", b"21")
    reports = executor.receive_reports()
    assert reports.frame_no == 1
    assert reports.reports[0].completed.output.data == b"42"
    assert reports.credit.after_start_seq == 1
    executor.start("threaded", b"7", run=2)
    assert executor.receive_reports().reports[0].completed.output.data == b'"7 in a thread"'


def test_steps_of_one_gather_travel_together_or_apart_but_each_once(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("stepper", b"4")
    numbers = []
    while True:
        frame = executor.receive_reports()
        numbers += [record.seq for report in frame.reports for record in report.records]
        executor.deliver(committed=wire.Committed(up_to=frame.frame_no))
        if frame.reports[-1].HasField("completed"):
            break
    assert numbers == [1, 2, 3, 4]
    assert frame.reports[-1].completed.output.data == b"[0,1,4,9]"


def test_what_a_gather_asks_for_at_once_is_cut_to_what_frames_carry(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("triggerer", b"[12, 900000]")
    numbers = []
    while len(numbers) < 12:
        frame = executor.receive_reports()
        assert frame.ByteSize() < 3 << 20
        numbers += [record.seq for report in frame.reports for record in report.records]
        assert not any(report.HasField("failed") for report in frame.reports)
    assert numbers == list(range(1, 13))


def test_a_report_that_no_frame_carries_fails_its_attempt_and_no_other(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("chatterer", b"12000000")
    (report,) = executor.receive_reports().reports
    assert report.failed.error.type == "ReportTooLargeError"
    executor.start("double", b"1", run=2)
    assert executor.receive_reports().reports[0].HasField("completed")


def test_a_batch_that_no_frame_carries_is_an_error_of_the_call(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("batcher", b"[12, 900000]")
    (report,) = executor.receive_reports().reports
    assert report.completed.output.data.startswith(b'"batch: 10,8')


def test_payload_that_does_not_fit_is_not_retried(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("double", b'"many"')
    failed = executor.receive_reports().reports[0].failed
    assert not failed.error.retryable
    assert failed.error.type == "InvalidPayloadError"


def test_it_answers_a_ping(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.send(renewed=wire.Renewed(nonce=77))
    assert executor.receive().renew.nonce == 77


def test_it_leaves_without_clean_up_when_its_places_are_taken_by_abandoned_bodies(
    execute: Callable[..., Process],
) -> None:
    executor = execute("--max-bodies", "2")
    hello(executor)
    for run in (1, 2):
        executor.start("parks", b'""', run=run)
        frame = executor.receive_reports()
        assert frame.reports[0].HasField("park")
        executor.deliver(
            committed=wire.Committed(up_to=frame.frame_no), drops=[wire.Drop(run_id=run.to_bytes(16, "big"), fence=1)]
        )
    code, out, _ = executor.end()
    assert code == 0
    assert "CLEANUP" not in out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import does_not_exist", "tasks_of_test.py:1"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "declare one with @task"),
        ("raise SystemExit('no')", "SystemExit"),
    ],
)
def test_target_that_cannot_be_loaded_is_one_line(execute: Callable[..., Process], source: str, message: str) -> None:
    code, _, err = execute(source=source).end()
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_missing_target_is_one_line(execute: Callable[..., Process]) -> None:
    code, _, err = execute("there_is_no_such_module").end()
    assert code == 2
    assert "there_is_no_such_module" in err
    assert len(err.strip().splitlines()) == 1


def test_it_does_not_outlive_its_link(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("parks", b'""')
    executor.receive_reports()
    executor.socket.close()
    code, out, _ = executor.end()
    assert code == 70
    assert "CLEANUP" not in out


def test_a_dead_body_does_not_disturb_others(execute: Callable[..., Process]) -> None:
    executor = execute()
    hello(executor)
    executor.start("no such task")
    assert executor.receive_reports().reports[0].HasField("failed")
    executor.start("double", b"1", run=2)
    assert executor.receive_reports().reports[0].HasField("completed")
    os.kill(executor.process.pid, signal.SIGKILL)
    assert executor.end()[0] == -signal.SIGKILL


MANY = """
from holdfast import step, task

@task(id="returns")
async def returns(payload: int) -> int:
    return payload

@task(id="steps")
async def steps(payload: int) -> int:
    return await step("add", add, payload)

async def add(n: int) -> int:
    return n + 1
"""


@pytest.mark.parametrize(("task", "is_waited_for"), [("steps", True), ("returns", False)])
def test_only_reports_that_bodies_wait_for_go_before_the_turn_is_over(
    execute: Callable[..., Process], task: str, is_waited_for: bool
) -> None:
    """Three hundred bodies run in one turn of the loop; making their reports takes far longer than the slice."""
    executor = execute(source=MANY)
    hello(executor)
    starts = []
    for run in range(1, 301):
        start = wire.Start(run_id=run.to_bytes(16, "big"), fence=1, attempt=1, task_id=task, start_seq=run)
        start.payload.data = b"1"
        starts.append(start)
    executor.deliver(starts=starts)
    frames: list[wire.Reports] = []
    while sum(len(frame.reports) for frame in frames) < 300:
        frames.append(executor.receive_reports())
    assert [frame.frame_no for frame in frames] == [*range(1, len(frames) + 1)]
    assert (len(frames) > 1) is is_waited_for
    assert len({report.run_id for frame in frames for report in frame.reports}) == 300
    assert frames[-1].credit.after_start_seq == 300
