"""Hooks and middleware around a body, driven through a real executor by a scheduler's end in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.executor_end import RUN_ID, Scheduler, kind_of, output
from holdfast import Context, Retry, _hooks, locals, logger, retry, shielded, step, tasks, wait
from holdfast._task import Task
from holdfast.errors import AbortTaskRunError, InvalidArgumentError, RunCanceledError, TaskDefinitionError
from holdfast.v1 import worker_service_pb2 as wire
from holdfast_worker.gate import GatedEventLoop


@pytest.fixture
def loop() -> Iterator[GatedEventLoop]:
    loop = GatedEventLoop()
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def no_global_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hooks.everywhere, "by_event", {})


def started(loop: GatedEventLoop, body: Callable[..., Any], *, autopilot: bool = True, **options: Any) -> Scheduler:
    start = options.pop("start", {})
    scheduler = Scheduler(loop, Task(body, id="task", **options), autopilot=autopilot)
    scheduler.start(**start)
    return scheduler


def ended(loop: GatedEventLoop, scheduler: Scheduler) -> wire.Report:
    return loop.run_until_complete(scheduler.to_end())


def test_hooks_run_around_the_body_in_their_order(loop: GatedEventLoop) -> None:
    seen: list[Any] = []

    @tasks.middleware
    async def outer(ctx: Context, result: Any) -> AsyncIterator[None]:
        seen.append("outer in")
        yield
        seen.append(("outer out", result.ok, result.output))

    @contextlib.asynccontextmanager
    async def inner() -> AsyncIterator[None]:
        seen.append("inner in")
        yield
        seen.append("inner out")

    @tasks.on_start_attempt
    async def start(ctx: Context) -> None:
        seen.append(("start", ctx.is_reentry))

    async def success(output: int) -> None:
        seen.append(("success", output))

    def complete(result: Any) -> None:
        seen.append(("complete", result.status, result.output, threading.current_thread() is threading.main_thread()))

    async def body() -> int:
        seen.append("body")
        return 7

    scheduler = started(loop, body, middleware=inner, on_success=success, on_complete=[complete])
    assert output(ended(loop, scheduler)) == 7
    assert seen == [
        "outer in", "inner in", ("start", False), "body", "inner out", ("outer out", True, 7),
        ("success", 7), ("complete", "COMPLETED", 7, False),
    ]  # fmt: skip


def test_a_def_body_has_hooks_too(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def middleware() -> AsyncIterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    def body() -> str:
        seen.append(threading.current_thread().name)
        return "done"

    assert output(ended(loop, started(loop, body, middleware=middleware))) == "done"
    assert seen == ["in", "holdfast-task", "out"]


@pytest.mark.parametrize("event", ["on_success", "on_complete"])
def test_an_error_after_the_outcome_is_logged_and_changes_nothing(loop: GatedEventLoop, event: str) -> None:
    async def hook() -> None:
        raise SystemExit("no")

    async def body() -> int:
        return 1

    scheduler = started(loop, body, **{event: hook})
    report = ended(loop, scheduler)
    assert output(report) == 1
    assert [line.message for line in report.logs] == [f"{event} hook failed: SystemExit: no"]


def test_an_error_in_on_start_attempt_or_a_middleware_fails_the_attempt(loop: GatedEventLoop) -> None:
    async def start() -> None:
        raise ValueError("not today")

    async def body() -> None:
        raise AssertionError("the body must not run")

    report = ended(loop, started(loop, body, on_start_attempt=start))
    assert report.failed.error.message == "not today"

    async def middleware() -> AsyncIterator[None]:
        yield
        raise ValueError("after all")

    async def fine() -> int:
        return 1

    report = ended(loop, started(loop, fine, middleware=middleware))
    assert report.failed.error.message == "after all"


def test_a_middleware_sees_an_error_and_cannot_swallow_it(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def middleware(result: Any) -> AsyncIterator[None]:
        try:
            yield
        except KeyError as error:
            seen.append(repr(error))
        seen.append(repr(result.error))

    async def body() -> None:
        raise KeyError("gone")

    assert ended(loop, started(loop, body, middleware=middleware)).failed.error.type == "KeyError"
    assert seen == ["KeyError('gone')", "KeyError('gone')"]


def test_on_failure_comes_with_the_last_attempt_only(loop: GatedEventLoop) -> None:
    seen: list[Any] = []

    async def failure(error: Exception, ctx: Context) -> None:
        seen.append((ctx.attempt.number, str(error)))

    async def complete(result: Any) -> None:
        seen.append((result.status, result.error.message))

    async def body() -> None:
        raise ValueError("broken")

    scheduler = started(loop, body, start={"max_attempts": 2}, on_failure=failure, on_complete=complete)
    assert ended(loop, scheduler).failed.error.retryable
    assert seen == []
    scheduler.attempt, scheduler.end = 2, None
    scheduler.start(max_attempts=2)
    ended(loop, scheduler)
    assert seen == [(2, "broken"), ("FAILED", "broken")]

    async def aborts() -> None:
        raise AbortTaskRunError("enough")

    seen.clear()
    ended(loop, started(loop, aborts, start={"max_attempts": 2}, on_failure=failure))
    assert seen == [(1, "enough")]


@pytest.mark.parametrize(
    ("decide", "retryable", "delay"),
    [
        (lambda: None, True, None),
        (retry.skip, False, None),
        (lambda: retry.after("5m"), True, 300),
        (lambda: retry.at(datetime.now(UTC) - timedelta(days=1)), True, 0),
        (lambda: Retry(max_attempts=3, min_timeout=7, randomize=False), True, 7),
        (lambda: Retry(max_attempts=1), False, 1),
        (lambda: "nonsense", True, None),
    ],
)
def test_catch_error_decides(loop: GatedEventLoop, decide: Any, retryable: bool, delay: int | None) -> None:
    async def catch_error(error: Exception, ctx: Context) -> Any:
        assert str(error) == "broken"
        return decide()

    async def body() -> None:
        raise ValueError("broken")

    failed = ended(loop, started(loop, body, start={"max_attempts": 5}, catch_error=catch_error)).failed
    assert failed.error.retryable is retryable
    if delay is None:
        assert not failed.HasField("retry_delay")
    elif retryable:
        assert failed.retry_delay.seconds == delay


def test_on_wait_and_on_resume_surround_a_parked_time(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def on_wait() -> None:
        await asyncio.sleep(0)
        seen.append("waits")
        with pytest.raises(Exception, match="inside on_wait"):
            await wait.for_(seconds=1)

    def on_resume() -> None:
        seen.append("goes on")

    async def body() -> str:
        await wait.for_(hours=1)
        seen.append("between")
        await asyncio.gather(wait.for_(hours=1), wait.for_(hours=2))
        return "done"

    scheduler = started(loop, body, on_wait=on_wait, on_resume=on_resume)
    assert output(ended(loop, scheduler)) == "done"
    assert seen[:3] == ["waits", "goes on", "between"]
    assert seen[3:] == ["waits", "goes on"] * (scheduler.parks - 1)
    assert scheduler.parks >= 2


def test_hooks_call_durably_in_branches_of_their_own_and_are_found_again(loop: GatedEventLoop) -> None:
    effects: list[str] = []

    def effect(name: str) -> str:
        effects.append(name)
        return name

    async def start() -> None:
        await step("do", effect, "start")

    async def middleware() -> AsyncIterator[None]:
        await step("do", effect, "in")
        try:
            yield
        finally:
            await step("do", effect, "out")

    async def failure(error: Exception) -> None:
        await step("do", effect, "failure")
        await wait.for_(hours=1)
        await asyncio.gather(step("do", effect, "a"), step("do", effect, "b"))

    async def body() -> None:
        await step("do", effect, "body")
        raise ValueError("broken")

    for kill_after in range(1, 12):
        effects.clear()
        task = Task(body, id="task", on_start_attempt=start, middleware=middleware, on_failure=failure)
        scheduler = Scheduler(loop, task)
        scheduler.kill_after = kill_after
        scheduler.start()
        assert ended(loop, scheduler).failed.error.message == "broken"
        assert sorted(effects) == sorted(["start", "in", "out", "failure", "a", "b", "body"]), kill_after


def test_on_cancel_runs_shielded_beside_the_body(loop: GatedEventLoop) -> None:
    seen: list[Any] = []

    async def on_cancel(ctx: Context) -> None:
        seen.append(await step("clean", lambda: "cleaned"))

    async def complete(result: Any) -> None:
        seen.append(result.status)

    async def body() -> None:
        try:
            await step("never", lambda: asyncio.sleep(0))
            await wait.for_(hours=1)
        except RunCanceledError:
            async with shielded():
                seen.append(await step("undo", lambda: "undone"))
            raise

    scheduler = started(loop, body, autopilot=False, on_cancel=on_cancel, on_complete=complete)
    scheduler.deliver(cancels=[wire.Cancel(run_id=RUN_ID, fence=1)])
    assert kind_of(ended(loop, scheduler)) == "canceled"
    assert sorted(seen[:2]) == ["cleaned", "undone"] or seen[0] == "cleaned"
    assert seen[-1] == "CANCELED"
    records = [record for report in scheduler.reports for record in report.records if record.name != "never"]
    assert records
    assert all(record.shielded for record in records)


def test_shielded_records_refused_beside_others_are_reported_again(loop: GatedEventLoop) -> None:
    seen: list[Any] = []

    async def clean() -> None:
        async with shielded():
            seen.append(await step("clean", at_once))

    async def at_once() -> str:
        return "cleaned"

    async def body() -> None:
        await asyncio.gather(clean(), step("plain", at_once), return_exceptions=True)

    scheduler = started(loop, body, autopilot=False)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: any(len(m.reports.reports) for m in scheduler._inbox)))
    [frame] = [message.reports for message in scheduler._inbox if message.HasField("reports")]
    scheduler._inbox.clear()
    [report] = frame.reports
    assert [record.shielded for record in report.records] == [True, False]
    refusal = wire.Refusal(run_id=RUN_ID, fence=1, number=report.number, reason=wire.REFUSAL_REASON_CANCELING)
    scheduler.holds_commits = False
    scheduler.deliver(committed=wire.Committed(up_to=frame.frame_no, refused=[refusal]))
    assert kind_of(ended(loop, scheduler)) == "canceled"
    assert seen == ["cleaned"]


def test_max_duration_ends_the_run_and_on_failure_hears_of_it(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def failure(error: Exception) -> None:
        seen.append(f"{type(error).__name__} {await step('tell', lambda: 'told')}")

    async def complete(result: Any) -> None:
        seen.append(result.status)

    async def body() -> None:
        await asyncio.get_running_loop().create_future()

    scheduler = Scheduler(loop, Task(body, id="task", on_failure=failure, on_complete=complete))
    start = wire.Start()
    start.max_duration.FromMilliseconds(20)
    scheduler.start(max_duration=start.max_duration, max_attempts=3)
    assert kind_of(ended(loop, scheduler)) == "TIMED_OUT"
    assert seen == ["TimeoutError told", "TIMED_OUT"]


def test_locals_are_of_one_execution(loop: GatedEventLoop) -> None:
    number = locals.create("number", int)
    other = locals.create("number", int)

    async def middleware() -> AsyncIterator[None]:
        locals.set(number, 7)
        yield

    async def body() -> list[Any]:
        with pytest.raises(InvalidArgumentError, match="not set in this execution"):
            locals.get_or_throw(other)
        return [locals.get_or_throw(number), locals.get(other), locals.get(other, 3)]

    assert output(ended(loop, started(loop, body, middleware=middleware))) == [7, None, 3]


def lines(scheduler: Scheduler) -> list[str]:
    return [line.message for report in scheduler.reports for line in report.logs]


def test_lines_travel_with_the_reports_and_are_not_repeated_before_new_ground(loop: GatedEventLoop) -> None:
    async def body() -> None:
        logger.info("first", page=1, odd={1, 2} and object)
        await step("a", lambda: 1)
        logger.warning("second")
        await step("b", lambda: 2)
        logger.error("third")

    scheduler = started(loop, body)
    ended(loop, scheduler)
    assert lines(scheduler) == ["first", "second", "third"]
    first = scheduler.reports[0].logs[0]
    assert (first.level, first.attempt, json.loads(first.fields)["page"]) == ("info", 1, "1")
    for kill_after in (1, 2):
        scheduler = Scheduler(loop, Task(body, id="task"))
        scheduler.kill_after = kill_after
        scheduler.start()
        ended(loop, scheduler)
        assert lines(scheduler) == ["first", "second", "third"]


def test_a_log_is_bounded(loop: GatedEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_worker.outbox.MAX_LOG_RECORDS", 3)

    async def body() -> None:
        for number in range(10):
            logger.info(f"line {number}")

    scheduler = started(loop, body)
    ended(loop, scheduler)
    assert lines(scheduler) == ["line 0", "line 1", "line 2", "the log ends here: it has 3 lines of this execution"]


@pytest.mark.parametrize(
    ("event", "hook", "message"),
    [
        ("on_failure", lambda wrong: None, "'wrong' is nothing that on_failure knows"),
        ("on_wait", lambda error: None, "can ask for payload, ctx, signal"),
        ("on_cancel", 7, "7 is not a function"),
    ],
)
def test_a_hook_that_cannot_be_called_is_refused_where_it_is_declared(event: str, hook: Any, message: str) -> None:
    with pytest.raises(TaskDefinitionError, match=message):
        Task(lambda: None, id="task", **{event: hook})


def test_a_middleware_that_never_yields_is_refused() -> None:
    async def middleware() -> None: ...

    with pytest.raises(TaskDefinitionError, match="never yields"):
        Task(lambda: None, id="task", middleware=middleware)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="on_sucess"):
        Task(lambda: None, id="task", on_sucess=print)  # type: ignore[call-arg]
