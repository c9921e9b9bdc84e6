"""Tasks for the fault tests: each effect goes to the ledger, and doors stop a body where a test wants it."""

from __future__ import annotations

import asyncio
import os
import signal

from pydantic import BaseModel

from harness.gates import Gates
from harness.ledger import Ledger
from holdfast import AbortTaskRunError, Context, Retry, _scope, metadata, step, task, wait

ONCE = Retry(max_attempts=1)
"""A run that used a second attempt would fail: the tests see it."""


def note(identity: str) -> None:
    """Do something in the outside world."""
    scope = _scope.current()
    assert scope is not None
    run = scope.ctx.run
    Ledger().append(run.id, identity, scope.fence, run.root_id)  # type: ignore[attr-defined]


async def door(place: str) -> None:
    """Wait while the test keeps the door closed."""
    scope = _scope.current()
    assert scope is not None
    await Gates().go_through(scope.ctx.run.root_id, place)


def effect(identity: str, value: int = 1) -> int:
    """A step's function."""
    note(identity)
    return value


class Journey(BaseModel):
    """`wait` in seconds."""

    wait: float = 0.01


@task(id="journey", retry=ONCE)
async def journey(payload: Journey) -> int:
    """Everything a run can be in the middle of."""
    note("enter")
    first = await step("first", effect, "first", 21)
    await door("started")
    await wait.for_(seconds=payload.wait)
    note("after the wait")
    doubled = await double.trigger_and_wait(first, idempotency_key="double")
    await door("child done")
    metadata.increment("progress", 1)
    await step("last", effect, "last")
    await door("ending")
    return doubled.unwrap()


@task(id="double", retry=ONCE)
async def double(number: int) -> int:
    """The child."""
    note("enter child")
    await door("in child")
    return number * 2


@task(id="killer", retry=ONCE, max_recoveries=2)
async def killer() -> None:
    """Kills its executor."""
    note("enter")
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@task(id="killer-once", retry=ONCE)
async def killer_once(ctx: Context) -> int:
    """Kills its executor at the first entry."""
    note("enter")
    if ctx.attempt.recoveries == 0:
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)
    return ctx.attempt.recoveries


@task(id="steady", retry=ONCE)
async def steady() -> int:
    """Somebody else's run."""
    note("enter")
    await door("started")
    return 1


@task(id="placed", retry=ONCE)
async def placed() -> int:
    """Tells in which executor it is."""
    note(str(os.getpid()))
    await door("started")
    return os.getpid()


@task(id="blocking", retry=ONCE)
def blocking(number: int) -> int:
    """A `def` body, in a thread."""
    note("enter")
    scope = _scope.current()
    assert scope is not None
    doubled = double.sync.trigger_and_wait(number).unwrap()
    Gates().go_through_blocking(scope.ctx.run.root_id, "started")
    return doubled


@task(id="many", retry=ONCE)
async def many(steps: int) -> int:
    """Steps, waits and children, for kills at any moment."""
    note("enter")
    total = 0
    for number in range(steps):
        total += await step("count", effect, f"step {number}", number)
        if number % 3 == 1:
            await wait.for_(seconds=0.05)
        if number % 3 == 2:
            total += (await add_one.trigger_and_wait(number, idempotency_key=str(number))).unwrap()
        metadata.increment("steps", 1)
    return total


@task(id="add-one", retry=ONCE)
async def add_one(number: int) -> int:
    """A small child."""
    note(f"child {number}")
    return number + 1


@task(id="parked-finally", retry=ONCE)
async def parked_finally() -> str:
    """What a `finally` does must not be done because the body was let go of."""
    try:
        note("enter")
        await wait.for_(seconds=1.5)
    finally:
        note("finally")
    return "done"


@task(id="branches-gather", retry=ONCE)
async def branches_gather() -> list[int]:
    """Three branches, each with steps and a child, of which one is at a door."""
    note("enter")
    return list(await asyncio.gather(*(_branch(number) for number in range(3))))


@task(id="branches-group", retry=ONCE)
async def branches_group() -> list[int]:
    """The same in a task group."""
    note("enter")
    async with asyncio.TaskGroup() as group:
        branches = [group.create_task(_branch(number)) for number in range(3)]
    return [branch.result() for branch in branches]


@task(id="branches-as-completed", retry=ONCE)
async def branches_as_completed() -> list[int]:
    """The same, in the order in which they end."""
    note("enter")
    results = [await ended for ended in asyncio.as_completed([_branch(number) for number in range(3)])]
    await step("order", effect, f"order {results}")
    return sorted(results)


@task(id="branches-wait-for", retry=ONCE)
async def branches_wait_for() -> list[int]:
    """The same, each with a time limit that it keeps."""
    note("enter")
    branches = [asyncio.wait_for(_branch(number), 60) for number in range(3)]
    return list(await asyncio.gather(*branches))


async def _branch(number: int) -> int:
    first = await step("one", effect, f"{number}: one", number)
    await wait.for_(seconds=0.01)
    await door(f"branch {number}")
    child = await double.trigger_and_wait(first, idempotency_key=f"branch {number}")
    return await step("two", effect, f"{number}: two", child.unwrap())


@task(id="large-gather", retry=ONCE)
async def large_gather(count: int) -> int:
    """So many durable calls at once; the second half comes through a door, some children are at a door, too."""
    note("enter")

    async def call(number: int) -> int:
        if number >= count // 2:
            await door("middle")
        if number % 20 == 3:
            return (await double.trigger_and_wait(number)).unwrap() // 2
        if number % 4 == 1:
            return (await add_one.trigger_and_wait(number)).unwrap() - 1
        if number % 4 == 0:
            await wait.for_(seconds=0.01)
            return number
        return await step("count", effect, f"step {number}", number)

    return sum(await asyncio.gather(*(call(number) for number in range(count))))


@task(id="fallback", retry=Retry(max_attempts=3, min_timeout=0.01, max_timeout=0.01))
async def fallback(ctx: Context) -> list[str]:
    """Fails twice, after steps whose success and failures must be kept as promised."""
    note("enter")
    seen = []
    await step("kept", effect, "kept")
    for name, function in (("transient", _fails), ("permanent", _aborts)):
        try:
            await step(name, function, name, retry=ONCE)
        except Exception as error:
            seen.append(f"{name}: {type(error).__name__}")
    await wait.for_(seconds=0.01)
    if ctx.attempt.number < 3:
        raise RuntimeError("again")
    return seen


def _fails(identity: str) -> None:
    note(identity)
    raise ValueError("not today")


def _aborts(identity: str) -> None:
    note(identity)
    raise AbortTaskRunError("never")


@task(id="changed-body", retry=ONCE)
async def changed_body(_: int) -> str:
    """Does not do the same at its second entry."""
    note("enter")
    entries = Ledger().counts()["enter changed"]
    note("enter changed")
    await step("charge", effect, f"charge member {entries}", entries)
    await door("started")
    return "done"


@task(id="counted", retry=ONCE)
async def counted() -> int:
    """Metadata over an entry that is interrupted."""
    note("enter")
    metadata.increment("count", 1)
    await step("one", effect, "one")
    metadata.increment("count", 1)
    await door("started")
    metadata.increment("count", 1)
    await step("two", effect, "two")
    return 1


@task(id="cancelled-cleanup", retry=ONCE)
async def cancelled_cleanup() -> None:
    """A real cancellation runs the clean-up."""
    note("enter")
    try:
        await door("started")
        await wait.for_(seconds=60)
    finally:
        note("finally")


@task(id="strict", retry=ONCE)
async def strict(payload: Journey) -> float:
    """Has a schema."""
    note("enter")
    return payload.wait


@task(id="fails-once-kept", retry=ONCE)
async def fails_once_kept() -> str:
    """Acts on a failure; a recovery must see the same."""
    note("enter")
    try:
        await step("fails", _fails, "fails", retry=ONCE)
    except Exception as error:
        seen = type(error).__name__
    else:
        seen = "nothing"
    await wait.for_(seconds=0.01)
    await door("failed")
    return seen


@task(id="large-step", retry=ONCE)
async def large_step() -> None:
    """Makes a result that no checkpoint may have."""
    note("enter")
    await step("large", _large)


def _large() -> str:
    return "x" * (256 * 1024 + 1)


@task(id="slow-effect", retry=ONCE)
async def slow_effect() -> None:
    """One effect is committed, the other is not yet."""
    note("enter")
    await step("committed", effect, "committed")
    await step("not committed", _slow_effect)


async def _slow_effect() -> None:
    note("not committed")
    await door("in the effect")


@task(id="keyed-children", retry=Retry(max_attempts=2, min_timeout=0.01, max_timeout=0.01))
async def keyed_children(ctx: Context) -> None:
    """Is killed after its children, then fails, then succeeds."""
    note("enter")
    for number in range(3):
        await add_one.trigger_and_wait(number, idempotency_key=f"child {number}")
    await door("keyed")
    if ctx.attempt.number == 1:
        raise RuntimeError("again")


@task(id="wait-and-work", retry=ONCE)
async def wait_and_work() -> None:
    """Waits durably and works at the same time."""
    note("enter")
    await asyncio.gather(wait.for_(seconds=0.5), door("plain work"))
