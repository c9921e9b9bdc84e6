"""Tasks that a Python worker runs for the TypeScript client."""

from __future__ import annotations

from datetime import timedelta

from holdfast import metadata, task, wait


@task(id="double")
async def double(number: int) -> int:
    """Answers at once."""
    return number * 2


@task(id="count")
async def count(to: int) -> str:
    """Shows what it does while it does it."""
    for number in range(1, to + 1):
        metadata.set("number", number)
        await wait.for_(seconds=0.05)
    return "counted"


@task(id="approval")
async def approval() -> str:
    """Waits for an outsider."""
    token = await wait.create_token(timeout=timedelta(minutes=10))
    metadata.set("token", token.id)
    answer = await wait.for_token(token)
    return f"answer: {answer.unwrap()}"
