"""Tasks whose bodies differ from version to version: `VERSION_TEST_CODE` says which one this worker has.

Each waits for a token between its durable calls, so that a test decides when it goes on, and in which code.
"""

from __future__ import annotations

import os

from pydantic import BaseModel

from harness.ledger import Ledger
from holdfast import Context, Retry, step, task, wait

CODE_VARIABLE = "VERSION_TEST_CODE"
NEW = os.environ.get(CODE_VARIABLE, "1") != "1"
"""Whether this worker has the changed bodies."""
ONCE = Retry(max_attempts=1)


class Gate(BaseModel):
    """`token` is an id."""

    token: str


def note(ctx: Context, identity: str) -> None:
    Ledger().append(ctx.run.id, identity, ctx.attempt.recoveries, ctx.version)


def effect(ctx: Context, identity: str) -> str:
    """A step's function: in the ledger it is seen who did it, and how often."""
    note(ctx, identity)
    return f"{identity} by {ctx.version}"


async def pass_gate(payload: Gate) -> None:
    (await wait.for_token(payload.token)).unwrap()


async def journey(payload: Gate, ctx: Context) -> list[str]:
    note(ctx, "enter")
    first = await step("first", lambda: effect(ctx, "first"))
    await pass_gate(payload)
    last = await step("last", lambda: effect(ctx, "last"))
    return [first, last, ctx.version]


free = task(id="free", retry=ONCE)(journey)
loyal = task(id="loyal", retry=ONCE, version_policy="wait")(journey)


async def named(ctx: Context, name: str, *, key: str | None = None) -> str:
    return await step(name, lambda: effect(ctx, name), key=key)


def keep(value: int) -> int:
    return value


@task(id="unchanged", retry=ONCE)
async def unchanged(payload: Gate, ctx: Context) -> list[str]:
    found = [await named(ctx, "a"), await named(ctx, "b")]
    await pass_gate(payload)
    return found


@task(id="added-behind", retry=ONCE)
async def added_behind(payload: Gate, ctx: Context) -> list[str]:
    found = [await named(ctx, "a")]
    await pass_gate(payload)
    return [*found, await named(ctx, "b")] if NEW else found


@task(id="keyed-moved", retry=ONCE)
async def keyed_moved(payload: Gate, ctx: Context) -> list[str]:
    names = ["c", "b", "a"] if NEW else ["a", "b"]
    found = [await named(ctx, name, key=name) for name in names]
    await pass_gate(payload)
    return found


@task(id="added-before", retry=ONCE)
async def added_before(payload: Gate, ctx: Context) -> list[str]:
    names = ["new", "a"] if NEW else ["a"]
    found = [await named(ctx, name) for name in names]
    await pass_gate(payload)
    return found


@task(id="removed", retry=ONCE)
async def removed(payload: Gate, ctx: Context) -> list[str]:
    names = ["b"] if NEW else ["a", "b"]
    found = [await named(ctx, name) for name in names]
    await pass_gate(payload)
    return found


@task(id="last-removed", retry=ONCE)
async def last_removed(payload: Gate, ctx: Context) -> list[str]:
    names = ["a"] if NEW else ["a", "b"]
    found = [await named(ctx, name) for name in names]
    if not NEW:
        await pass_gate(payload)
    return found


@task(id="reordered", retry=ONCE)
async def reordered(payload: Gate, ctx: Context) -> list[str]:
    if NEW:
        await pass_gate(payload)
    found = [await named(ctx, "a")]
    if not NEW:
        await pass_gate(payload)
    return found


@task(id="renamed", retry=ONCE)
async def renamed(payload: Gate, ctx: Context) -> list[str]:
    found = [await named(ctx, "z" if NEW else "a")]
    await pass_gate(payload)
    return found


@task(id="other-arguments", retry=ONCE)
async def other_arguments(payload: Gate, ctx: Context) -> list[str]:
    found = [str(await step("keep", keep, 2 if NEW else 1))]
    await pass_gate(payload)
    return found


@task(id="other-payload", retry=ONCE)
async def other_payload(payload: Gate, ctx: Context) -> list[str]:
    found = [(await child.trigger_and_wait(2 if NEW else 1)).unwrap()]
    await pass_gate(payload)
    return found


@task(id="version-child", retry=ONCE)
async def child(number: int, ctx: Context) -> str:
    note(ctx, f"child {number}")
    return f"{number} by {ctx.version}"
