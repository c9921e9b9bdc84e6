"""Tasks whose runs are listed, watched and steered."""

from __future__ import annotations

import asyncio

from holdfast import AbortTaskRunError, Context, Retry, logger, metadata, queue, step, tags, task, wait

steered = queue("steered", 2)


@task(id="double")
async def double(payload: int) -> int:
    """At once."""
    return payload * 2


@task(id="until-token", queue=steered)
async def until_token(payload: str) -> str:
    """Waits for the token that its payload names."""
    metadata.set("stage", "waiting")
    return (await wait.for_token(payload, str)).unwrap()


@task(id="full-life", retry=Retry(max_attempts=2, min_timeout=0.05, max_timeout=0.05))
async def full_life(payload: str, ctx: Context) -> dict[str, object]:
    """A first attempt that fails, a step, a child, a wait and a log line."""
    if ctx.attempt.number == 1:
        raise ValueError("not yet")
    logger.info(f"in attempt {ctx.attempt.number}")
    await step("shout", payload.upper)
    doubled = (await double.trigger_and_wait(21, tags=["child"])).unwrap()
    await wait.for_(seconds=0.05)
    return {"doubled": doubled, "ctx": seen(ctx)}


@task(id="see-ctx")
async def see_ctx(payload: str, ctx: Context) -> dict[str, object]:
    """What a child sees of itself."""
    return seen(ctx)


@task(id="ctx-parent")
async def ctx_parent(payload: str, ctx: Context) -> list[dict[str, object]]:
    """Itself, and its child in a batch."""
    items = [see_ctx.item(payload, concurrency_key="key", queue="steered")]
    results = await see_ctx.batch_trigger_and_wait(items)
    return [seen(ctx), results[0].unwrap()]


@task(id="many-tags")
async def many_tags(payload: int) -> str:
    """Adds as many tags, one after the other; returns what it is told."""
    try:
        for number in range(payload):
            tags.add(f"tag-{number}")
            tags.add(f"tag-{number}")  # one that it has costs nothing
    except Exception as error:
        raise AbortTaskRunError(f"{type(error).__name__}: {error}") from error
    await asyncio.sleep(0)
    return "all"


def seen(ctx: Context) -> dict[str, object]:
    """All that `ctx` has."""
    return {
        "task": ctx.task.id,
        "run": ctx.run.id,
        "parent": ctx.run.parent_id,
        "root": ctx.run.root_id,
        "depth": ctx.run.depth,
        "tags": list(ctx.run.tags),
        "is_replay": ctx.run.is_replay,
        "max_attempts": ctx.run.max_attempts,
        "attempt": ctx.attempt.number,
        "recoveries": ctx.attempt.recoveries,
        "queue": ctx.queue.name,
        "key": ctx.queue.concurrency_key,
        "batch": ctx.batch.id if ctx.batch is not None else None,
        "version": ctx.version,
    }
