"""What a body does, driven through a real executor object by a scheduler's end in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.executor_end import (
    RUN_ID,
    Scheduler,
    child,
    kind_of,
    output,
    scope,
    step,
    trigger,
    wait,
)
from holdfast.errors import RunCanceledError, StepFailedError
from holdfast.v1 import worker_service_pb2 as wire
from holdfast_worker.gate import GatedEventLoop


@pytest.fixture
def loop() -> Iterator[GatedEventLoop]:
    loop = GatedEventLoop()
    yield loop
    loop.close()


def run_to_end(loop: GatedEventLoop, scheduler: Scheduler) -> wire.Report:
    return loop.run_until_complete(scheduler.to_end())


def started(loop: GatedEventLoop, body: Any, **options: Any) -> Scheduler:
    scheduler = Scheduler(loop, body, **options)
    scheduler.start()
    return scheduler


def parked(loop: GatedEventLoop, scheduler: Scheduler) -> None:
    loop.run_until_complete(scheduler.until(lambda: scheduler.is_parked))


def test_body_without_durable_calls_is_one_report(loop: GatedEventLoop) -> None:
    async def body() -> int:
        return 7

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == 7
    assert len(scheduler.reports) == 1


def test_steps_are_committed_before_the_body_goes_on(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def body() -> Any:
        one = await step("one", lambda: seen.append("one") or 1)
        seen.append("after one")
        return one + await step("two", lambda: 2)

    scheduler = started(loop, body)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: len(scheduler._inbox) > 0))
    assert seen == ["one"]
    scheduler.holds_commits = False
    scheduler.pump()
    assert output(run_to_end(loop, scheduler)) == 3
    assert seen == ["one", "after one"]


def test_records_made_on_the_way_to_rest_travel_in_one_report_with_park(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return await asyncio.gather(child("a"), child("b"), wait())

    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    assert len(scheduler.reports) == 1
    assert len(scheduler.reports[0].records) == 3
    assert scheduler.reports[0].HasField("park")


def test_parked_body_goes_on_in_place(loop: GatedEventLoop) -> None:
    entries: list[int] = []

    async def body() -> Any:
        entries.append(1)
        return [await child("a"), await child("b")]

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == ["answer to a", "answer to b"]
    assert entries == [1]
    assert scheduler.parks == 2


def test_what_is_settled_before_park_is_committed_keeps_the_body_going(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return await child("a")

    scheduler = started(loop, body, autopilot=False)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler._inbox)))
    [report] = scheduler._inbox[0].reports.reports
    scheduler._commit(report)
    scheduler.is_parked = False
    scheduler.settle("a")
    scheduler.deliver(committed=wire.Committed(up_to=scheduler._inbox.pop(0).reports.frame_no))
    scheduler.holds_commits = False
    assert output(run_to_end(loop, scheduler)) == "answer to a"
    assert scheduler.fence == 1


def test_the_acknowledgement_of_a_park_under_an_older_fence_says_nothing_of_a_newer_park(loop: GatedEventLoop) -> None:
    """It was lost with its connection, and the Park went in again, after the Resume of the run: refused as stale, and
    then acknowledged."""

    async def body() -> Any:
        return [await child("a"), await child("b")]

    scheduler = started(loop, body, autopilot=False)
    scheduler.holds_commits = True

    def reported() -> wire.Reports:
        loop.run_until_complete(scheduler.until(lambda: bool(scheduler._inbox)))
        return scheduler._inbox.pop(0).reports

    first = reported()
    scheduler._commit(first.reports[0])
    scheduler.settle("a")
    second = reported()
    assert [(one.fence, one.number, one.HasField("park")) for one in second.reports] == [(2, 1, True)]
    scheduler.deliver(committed=wire.Committed(up_to=first.frame_no))
    scheduler.holds_commits = False
    scheduler._take_reports(second)
    parked(loop, scheduler)
    loop.run_until_complete(asyncio.sleep(0.05))
    assert (scheduler.parks, len(scheduler.reports)) == (2, 2)
    scheduler.settle("b")
    assert output(run_to_end(loop, scheduler)) == ["answer to a", "answer to b"]
    assert scheduler.fence == 3


async def _sleep_body() -> Any:
    async def tick() -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        # A future of nobody's: work of the body's own.
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, None)
        await future
        await event.wait()

    return await asyncio.gather(child("a"), tick())


def test_body_with_own_work_is_not_parked(loop: GatedEventLoop) -> None:
    scheduler = started(loop, _sleep_body)
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler.reports)))
    assert not scheduler.reports[0].HasField("park")
    assert output(run_to_end(loop, scheduler)) == ["answer to a", None]


STRUCTURES: dict[str, Any] = {}


def structure(function: Any) -> Any:
    STRUCTURES[function.__name__] = function
    return function


@structure
async def gathered() -> Any:
    return await asyncio.gather(child("a"), asyncio.gather(child("b"), child("c")))


@structure
async def grouped() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(name)) for name in "abc"]
    return [task.result() for task in tasks]


@structure
async def in_order_of_completion() -> Any:
    return [await done for done in asyncio.as_completed([child("a"), child("b"), child("c")])]


@structure
async def first_completed() -> Any:
    tasks = {asyncio.create_task(child(name), name=name) for name in "abc"}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return sorted(task.get_name() for task in done) + sorted(task.get_name() for task in pending)


@structure
async def waited_for() -> Any:
    return await asyncio.wait_for(child("a"), timeout=600)


@structure
async def with_timeout() -> Any:
    async with asyncio.timeout(600):
        return await child("a")


@structure
async def shielded_wait() -> Any:
    return await asyncio.shield(child("a"))


@structure
async def behind_a_semaphore() -> Any:
    semaphore = asyncio.Semaphore(1)

    async def one(name: str) -> Any:
        async with semaphore:
            return await child(name)

    return await asyncio.gather(*(one(name) for name in "abc"))


@structure
async def through_a_queue() -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def produce() -> None:
        for name in "abc":
            await queue.put(await child(name))
        await queue.put(None)

    producer = asyncio.create_task(produce())
    found = []
    while (item := await queue.get()) is not None:
        found.append(item)
    await producer
    return found


@structure
async def nested_generators() -> Any:
    async def numbers() -> Any:
        for name in "ab":
            yield await child(name)

    return [item async for item in numbers()]


@pytest.mark.parametrize("name", sorted(STRUCTURES))
@pytest.mark.parametrize("seed", range(3))
def test_structures_park_and_end_alike_when_killed_at_every_report(loop: GatedEventLoop, name: str, seed: int) -> None:
    body = STRUCTURES[name]
    plain = started(loop, body, seed=seed)
    expected = output(run_to_end(loop, plain))
    assert plain.parks > 0
    for before_commit in (True, False):
        for settle in (True, False):
            for report in range(1, plain.commits + 1):
                scheduler = Scheduler(loop, body, seed=seed)
                scheduler.kill_after, scheduler.kill_before_commit = report, before_commit
                scheduler.settle_at_kill = settle
                scheduler.start()
                assert output(run_to_end(loop, scheduler)) == expected


def test_answers_that_arrive_together_are_given_one_at_a_time(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def follow(name: str) -> None:
        seen.append(await child(name))
        await asyncio.sleep(0)
        seen.append(f"after {name}")

    async def body() -> None:
        await asyncio.gather(follow("a"), follow("b"))

    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    second, first = scheduler.settle("b", silently=True), scheduler.settle("a", silently=True)
    scheduler.resume(second, first)
    run_to_end(loop, scheduler)
    assert seen == ["answer to b", "after b", "answer to a", "after a"]


def test_timer_of_a_parked_body_wakes_it(loop: GatedEventLoop) -> None:
    async def body() -> str:
        try:
            async with asyncio.timeout(0.02):
                await child("a")
        except TimeoutError:
            return "too late"
        return "in time"

    scheduler = started(loop, body, autopilot=False)
    assert output(run_to_end(loop, scheduler)) == "too late"
    kinds = [report.WhichOneof("transition") for report in scheduler.reports]
    assert kinds == ["park", "wake", None, "completed"]
    assert list(scheduler.reports[2].abandoned_seqs) == [1]


def test_wake_that_crosses_its_resume_does_not_cost_the_body(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        async with asyncio.timeout(0.02):
            await child("a")
        return "in time"

    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler._inbox)))
    wake = scheduler._inbox.pop().reports
    assert wake.reports[0].HasField("wake")
    refusal = wire.Refusal(run_id=RUN_ID, fence=1, number=2, reason=wire.REFUSAL_REASON_STALE_FENCE)
    scheduler.fence, scheduler.is_parked, scheduler.holds_commits = 2, False, False
    scheduler.deliver(
        committed=wire.Committed(up_to=wake.frame_no, refused=[refusal]),
        resumes=[wire.Resume(run_id=RUN_ID, fence=2)],
    )
    assert run_to_end(loop, scheduler).failed.error.type == "TimeoutError"


def test_abandoned_call_stays_pending_at_re_entry_until_it_is_cancelled_again(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        try:
            async with asyncio.timeout(0.01):
                await child("a")
        except TimeoutError:
            return ["too late", await child("b")]
        return "in time"

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: any(c.name == "b" for c in scheduler.pending())))
    scheduler.start()
    loop.run_until_complete(scheduler.until(lambda: scheduler.is_parked and not scheduler._inbox))
    loop.run_until_complete(_settle_when_parked(scheduler, "b"))
    assert output(run_to_end(loop, scheduler)) == ["too late", "answer to b"]
    assert len(scheduler.checkpoints) == 2


async def _settle_when_parked(scheduler: Scheduler, name: str) -> None:
    scheduler.settle(name)


def test_abandoned_call_that_nothing_cancels_again_is_an_error(loop: GatedEventLoop) -> None:
    entries: list[int] = []

    async def body() -> Any:
        entries.append(1)
        waiting = asyncio.create_task(child("a"))
        if len(entries) == 1:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            return await child("b")
        return await waiting

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: any(c.name == "b" for c in scheduler.checkpoints.values())))
    if scheduler.checkpoints[1].name == "b":
        pytest.skip("the call was cancelled before it was recorded")
    scheduler.start()
    assert kind_of(run_to_end(loop, scheduler)) == "NON_DETERMINISM"


def test_step_that_the_body_gave_up_is_given_up_at_re_entry(loop: GatedEventLoop) -> None:
    performed: list[int] = []

    async def slow() -> None:
        performed.append(1)
        await asyncio.get_running_loop().create_future()

    async def body() -> Any:
        try:
            async with asyncio.timeout(0.01):
                await step("slow", slow)
        except TimeoutError:
            return await child("b")

    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    scheduler.start()
    loop.run_until_complete(scheduler.until(lambda: scheduler.is_parked and not scheduler._inbox))
    scheduler.settle("b")
    assert output(run_to_end(loop, scheduler)) == "answer to b"
    assert performed == [1]


def test_abandoned_body_never_runs_its_clean_up(loop: GatedEventLoop) -> None:
    ran: list[str] = []

    async def body() -> None:
        async def other() -> None:
            try:
                await asyncio.sleep(0.01)
            finally:
                ran.append("other")

        task = asyncio.create_task(other())
        try:
            await child("a")
        except BaseException:
            ran.append("except")
            raise
        finally:
            ran.append("finally")
        await task

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler.reports)))
    scheduler.deliver(drops=[wire.Drop(run_id=RUN_ID, fence=scheduler.fence)])
    gc.collect()
    loop.run_until_complete(asyncio.sleep(0.05))
    gc.collect()
    assert ran == []
    assert not scheduler.executor.bodies  # type: ignore[union-attr]


def test_stale_refusal_abandons_the_body(loop: GatedEventLoop) -> None:
    ran: list[str] = []

    async def body() -> None:
        try:
            await child("a")
        finally:
            ran.append("finally")

    scheduler = started(loop, body, autopilot=False)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler._inbox)))
    refusal = wire.Refusal(run_id=RUN_ID, fence=1, number=1, reason=wire.REFUSAL_REASON_STALE_FENCE)
    scheduler.deliver(committed=wire.Committed(up_to=1, refused=[refusal]))
    loop.run_until_complete(asyncio.sleep(0))
    assert ran == []
    assert not scheduler.executor.bodies  # type: ignore[union-attr]


def test_invalid_report_fails_the_attempt_with_its_message(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        try:
            return await child("a")
        except Exception as error:
            return str(error)

    scheduler = started(loop, body, autopilot=False)
    scheduler.holds_commits = True
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler._inbox)))
    scheduler._inbox.clear()
    refusal = wire.Refusal(
        run_id=RUN_ID, fence=1, number=1, reason=wire.REFUSAL_REASON_INVALID, message="too many checkpoints"
    )
    scheduler.deliver(committed=wire.Committed(up_to=1, refused=[refusal]))
    scheduler.holds_commits = False
    end = run_to_end(loop, scheduler)
    assert kind_of(end) == "LIMIT_EXCEEDED"
    assert end.failed.error.message == "too many checkpoints"


def cancel(scheduler: Scheduler) -> None:
    scheduler.deliver(cancels=[wire.Cancel(run_id=RUN_ID, fence=scheduler.fence)])


def test_cancellation_raises_in_the_pending_call_and_clean_up_runs(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def body() -> None:
        try:
            await asyncio.gather(child("a"), asyncio.get_running_loop().create_future())
        except Exception:
            seen.append("swallowed")
        except RunCanceledError:
            seen.append("canceled")
            try:
                await step("more", lambda: seen.append("more"))
            except RunCanceledError:
                seen.append("refused")
            scope().shield(True)
            seen.append(await step("last", lambda: "shielded"))
            scope().shield(False)
            raise

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler.reports)))
    cancel(scheduler)
    assert kind_of(run_to_end(loop, scheduler)) == "canceled"
    assert seen == ["canceled", "refused", "shielded"]


def test_body_that_does_not_listen_is_cut_off_after_the_grace(loop: GatedEventLoop) -> None:
    ran: list[str] = []

    async def body() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ran.append("finally")

    scheduler = started(loop, body)
    loop.run_until_complete(asyncio.sleep(0))
    cancel(scheduler)
    assert kind_of(run_to_end(loop, scheduler)) == "canceled"
    assert ran == []


def test_signal_is_awaitable(loop: GatedEventLoop) -> None:
    async def body() -> str:
        await scope().signal
        return scope().signal.reason

    scheduler = started(loop, body)
    loop.run_until_complete(asyncio.sleep(0))
    cancel(scheduler)
    assert kind_of(run_to_end(loop, scheduler)) == "canceled"


def test_max_duration_fails_the_attempt(loop: GatedEventLoop) -> None:
    ran: list[str] = []

    async def body() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ran.append("finally")

    scheduler = Scheduler(loop, body)
    start = wire.Start()
    start.max_duration.FromMilliseconds(10)
    scheduler.start(max_duration=start.max_duration)
    end = run_to_end(loop, scheduler)
    assert kind_of(end) == "TIMED_OUT"
    assert not end.failed.error.retryable
    assert ran == ["finally"]


def test_parked_time_does_not_count(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return await child("a")

    scheduler = Scheduler(loop, body, autopilot=False)
    start = wire.Start()
    start.max_duration.FromMilliseconds(20)
    scheduler.start(max_duration=start.max_duration)
    parked(loop, scheduler)
    loop.run_until_complete(asyncio.sleep(0.05))
    scheduler.settle("a")
    assert output(run_to_end(loop, scheduler)) == "answer to a"


def test_tasks_left_behind_are_cancelled_and_end_first(loop: GatedEventLoop) -> None:
    ran: list[str] = []

    async def body() -> str:
        async def other() -> None:
            try:
                await child("a")
            finally:
                ran.append("other")

        left = asyncio.create_task(other())
        await asyncio.sleep(0)
        return str(left.done())

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == "False"
    assert ran == ["other"]


def test_system_exit_of_a_body_fails_its_run_only(loop: GatedEventLoop) -> None:
    async def body() -> None:
        async def leave() -> None:
            raise SystemExit(3)

        await asyncio.create_task(leave())

    assert kind_of(run_to_end(loop, started(loop, body))) == "USER"


def test_durable_call_inside_a_step_is_refused(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        async def inner() -> Any:
            return await child("a")

        return await step("outer", inner)

    end = run_to_end(loop, started(loop, body))
    assert "beside the step" in end.failed.error.message


def test_failed_step_looks_the_same_at_re_entry_and_is_tried_again_in_a_new_attempt(loop: GatedEventLoop) -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not yet")
        return len(calls)

    async def body() -> Any:
        try:
            got = await step("flaky", flaky)
        except StepFailedError as error:
            await step("fallback", lambda: "fallback")
            await child("a")
            raise RuntimeError(error.message) from None
        return [got, await child("b")]

    scheduler = started(loop, body)
    scheduler.kill_after = 3
    first = run_to_end(loop, scheduler)
    assert first.failed.error.message == "not yet"
    assert len(calls) == 1
    scheduler.attempt, scheduler.end = 2, None
    scheduler.start()
    assert output(run_to_end(loop, scheduler)) == [2, "answer to b"]


def test_same_key_joins_the_same_checkpoint(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        both = await asyncio.gather(child("a", 1, key="k"), child("a", 1, key="k"))
        return [*both, await child("a", 1, key="k")]

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == ["answer to a"] * 3
    assert len(scheduler.checkpoints) == 1


def test_trigger_is_settled_by_its_commit(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return await trigger("a")

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == "run_a"
    assert scheduler.parks == 0


def test_spinning_body_gets_its_answers(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        waiting = asyncio.create_task(step("one", lambda: 1))
        while not waiting.done():
            await asyncio.sleep(0)
        return waiting.result()

    assert output(run_to_end(loop, started(loop, body))) == 1


def test_re_entry_waits_for_io_before_it_answers_out_of_order(loop: GatedEventLoop) -> None:
    order: list[str] = []

    async def after_io() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, None)
        await future
        order.append(await step("after io", lambda: "io"))

    async def plain() -> None:
        await child("first")
        order.append(await child("second"))

    async def body() -> Any:
        order.clear()
        await asyncio.gather(after_io(), plain())
        return list(order)

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: any(c.name == "after io" for c in scheduler.checkpoints.values())))
    loop.run_until_complete(scheduler.until(lambda: scheduler.is_parked))
    scheduler.settle("first")
    loop.run_until_complete(scheduler.until(lambda: any(c.name == "second" for c in scheduler.pending())))
    scheduler.settle("second", silently=True)
    scheduler.start()
    assert output(run_to_end(loop, scheduler)) == ["io", "answer to second"]


# -- def bodies


def test_def_body_blocks_its_thread_and_parks(loop: GatedEventLoop) -> None:
    threads: list[int] = []

    def body() -> Any:
        threads.append(threading.get_ident())
        first = scope().block_on(lambda: child("a"))
        threads.append(threading.get_ident())
        return [first, scope().block_on(lambda: step("s", lambda: 5))]

    scheduler = started(loop, body)
    assert output(run_to_end(loop, scheduler)) == ["answer to a", 5]
    assert scheduler.parks == 1
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_def_body_is_re_entered(loop: GatedEventLoop) -> None:
    done: list[str] = []

    def body() -> Any:
        scope().block_on(lambda: step("s", lambda: done.append("s")))
        return scope().block_on(lambda: child("a"))

    scheduler = Scheduler(loop, body)
    scheduler.kill_after = 2
    scheduler.start()
    assert output(run_to_end(loop, scheduler)) == "answer to a"
    assert done == ["s"]


def test_def_body_is_canceled(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    def body() -> None:
        try:
            scope().block_on(lambda: _gathered_with_own_work())
        except RunCanceledError:
            seen.append("canceled")
            raise

    async def _gathered_with_own_work() -> None:
        await asyncio.gather(child("a"), asyncio.get_running_loop().create_future())

    scheduler = started(loop, body, autopilot=False)
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler.reports)))
    cancel(scheduler)
    assert kind_of(run_to_end(loop, scheduler)) == "canceled"
    assert seen == ["canceled"]


def test_blocking_call_in_an_async_body_is_refused(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return scope().block_on(lambda: child("a"))

    assert "Await" in run_to_end(loop, started(loop, body)).failed.error.message


# -- metadata


def increment(key: str = "n") -> None:
    scope().metadata_operation(
        wire.MetadataOperation(verb=wire.METADATA_VERB_INCREMENT, key=key, value=b"1", target=wire.METADATA_TARGET_SELF)
    )


def test_metadata_is_local_at_once_and_counts_once(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        for number in range(4):
            increment()
            await step("work", lambda _: increment("in steps"), number)
            await child("a", number)
        increment()
        return scope().metadata_document()

    plain = started(loop, body)
    expected = {"n": 5, "in steps": 4}
    assert output(run_to_end(loop, plain)) == expected
    for before_commit in (True, False):
        for report in range(1, plain.commits + 1):
            scheduler = Scheduler(loop, body)
            scheduler.kill_after, scheduler.kill_before_commit = report, before_commit
            scheduler.start()
            assert output(run_to_end(loop, scheduler)) == expected
            assert json.loads(scheduler.document()) == expected


def test_metadata_is_shown_live_before_a_checkpoint(loop: GatedEventLoop) -> None:
    async def body() -> None:
        increment()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.8, future.set_result, None)
        await future

    scheduler = started(loop, body)
    loop.run_until_complete(scheduler.until(lambda: bool(scheduler.live_metadata)))
    assert scheduler.live_metadata[0].provisional
    run_to_end(loop, scheduler)
    # Once more with the end, which commits it.
    assert [one.provisional for one in scheduler.live_metadata] == [True, False]


async def _steps_and_children() -> Any:
    await asyncio.gather(step("one", lambda: 1), child("a"))
    return await step("two", lambda: 2)


async def _failing() -> Any:
    await step("one", lambda: 1)
    raise ValueError("no")


@pytest.mark.parametrize("body", [_steps_and_children, _failing, _sleep_body])
def test_a_body_that_has_ended_goes_without_the_garbage_collector(
    loop: GatedEventLoop, body: Callable[[], Any]
) -> None:
    scheduler = started(loop, body)
    assert scheduler.executor is not None
    gone = [weakref.ref(living) for living in scheduler.executor.bodies.values()]
    assert gone
    gc.collect()
    gc.disable()
    try:
        run_to_end(loop, scheduler)
        loop.run_until_complete(asyncio.sleep(0))  # the acknowledgement of the last report arrives
        assert [one() for one in gone] == [None]
    finally:
        gc.enable()


# -- a Resume that comes ahead of its instant


def resumed_ahead(loop: GatedEventLoop, body: Any, after_s: float) -> Scheduler:
    """A body that is parked on a wait "w" and has got the end of it, to be heeded in so many seconds."""
    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    scheduler.resume(scheduler.settle("w", silently=True), after_s=after_s)
    return scheduler


def test_a_body_that_is_resumed_ahead_goes_on_at_its_instant(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return await wait("w")

    scheduler = resumed_ahead(loop, body, 0.2)
    assert scheduler.executor is not None
    assert not scheduler.executor._is_idle()  # an executor that leaves must not leave it behind
    told_at = loop.time()
    assert output(run_to_end(loop, scheduler)) == "answer to w"
    assert loop.time() - told_at >= 0.2


def test_the_executor_knows_best_when_a_wait_is_over(loop: GatedEventLoop) -> None:
    """The scheduler counts from the arrival of the report; here the clock runs since the call."""

    async def body() -> Any:
        asked_at = loop.time()
        await wait("w", seconds=0.3)
        return loop.time() - asked_at

    scheduler = resumed_ahead(loop, body, 3600.0)
    assert output(run_to_end(loop, scheduler)) >= 0.3


def test_a_wait_that_another_execution_asked_for_ends_when_the_scheduler_says(loop: GatedEventLoop) -> None:
    async def body() -> Any:
        return [await wait("w", seconds=0.01), await wait("x")]

    scheduler = started(loop, body, autopilot=False)
    parked(loop, scheduler)
    scheduler.start()
    parked(loop, scheduler)
    scheduler.resume(scheduler.settle("w", silently=True), after_s=0.3)
    told_at = loop.time()
    parked(loop, scheduler)
    assert loop.time() - told_at >= 0.3


def test_what_is_settled_meanwhile_is_answered_after_it(loop: GatedEventLoop) -> None:
    answers: list[str] = []

    async def note(call: Any) -> None:
        answers.append(await call)

    async def body() -> Any:
        await asyncio.gather(note(wait("w")), note(child("a")))
        return answers

    scheduler = resumed_ahead(loop, body, 0.2)
    told_at = loop.time()
    scheduler.settle("a")
    assert output(run_to_end(loop, scheduler)) == ["answer to w", "answer to a"]
    assert loop.time() - told_at >= 0.2


def test_what_a_body_has_to_do_by_itself_waits_meanwhile(loop: GatedEventLoop) -> None:
    """It has its slot already: it must not ask for one."""
    seen: list[str] = []

    async def body() -> Any:
        loop.call_later(0.05, seen.append, "timer")
        return await wait("w")

    scheduler = resumed_ahead(loop, body, 0.3)
    loop.run_until_complete(scheduler.until(lambda: scheduler.end is not None))
    assert seen == ["timer"]
    assert [report.WhichOneof("transition") for report in scheduler.reports] == ["park", "completed"]


def test_a_cancellation_meanwhile_comes_at_its_instant(loop: GatedEventLoop) -> None:
    """Clean-up may wait, too, and no wait ends early."""

    async def body() -> Any:
        try:
            await wait("w")
        except RunCanceledError:
            return None
        raise AssertionError("it went on as if nothing had happened")

    scheduler = resumed_ahead(loop, body, 0.2)
    told_at = loop.time()
    cancel(scheduler)
    assert kind_of(run_to_end(loop, scheduler)) == "canceled"
    assert loop.time() - told_at >= 0.2


def test_a_body_that_is_dropped_meanwhile_never_goes_on(loop: GatedEventLoop) -> None:
    seen: list[str] = []

    async def body() -> Any:
        await wait("w")
        seen.append("went on")

    scheduler = resumed_ahead(loop, body, 0.1)
    scheduler.deliver(drops=[wire.Drop(run_id=RUN_ID, fence=scheduler.fence)])
    loop.run_until_complete(asyncio.sleep(0.3))
    assert seen == []
    assert scheduler.end is None
