"""The tasks that the scenarios play with. `asks` makes triggers inside a run, in each form that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from holdfast import (
    BatchHandle,
    BatchResult,
    Context,
    Debounce,
    HoldfastError,
    Retry,
    RunHandle,
    RunResult,
    batch,
    idempotency_keys,
    locals,
    logger,
    metadata,
    retry,
    step,
    tags,
    task,
    tasks,
    wait,
)

QUICK = {"min_timeout": 0.01, "max_timeout": 0.01}
QUEUE = "scenarios"


class Ask(BaseModel):
    """One run to ask for. `options` are those of `trigger`; `debounce` the arguments of `Debounce`."""

    task: str
    payload: Any = None
    key: str | None = None
    options: dict[str, Any] = {}
    debounce: dict[str, Any] | None = None


class Script(BaseModel):
    """What `asks` asks for, and how it ends. `scope` is that of all keys."""

    form: str
    asks: list[Ask]
    key: str | None = None
    scope: str = "global"
    wait_timeout: float | None = None
    then: str = "return"


def options_of(ask: Ask, scope: Any = "global") -> dict[str, Any]:
    """The keyword arguments of a trigger."""
    options = dict(ask.options)
    if ask.key is not None:
        options["idempotency_key"] = idempotency_keys.create(ask.key, scope=scope)
    if ask.debounce is not None:
        options["debounce"] = Debounce(**ask.debounce)
    return options


def seen(outcome: RunHandle[Any] | RunResult[Any] | HoldfastError) -> dict[str, Any]:
    """What a caller sees of one item."""
    if isinstance(outcome, HoldfastError):
        return {"error": getattr(outcome, "reason", type(outcome).__name__)}
    found: dict[str, Any] = {"is_cached": outcome.is_cached, "payload_differs": outcome.payload_differs}
    if isinstance(outcome, RunHandle):
        return {"run_id": outcome.id, **found}
    if not outcome.run_id and outcome.error is not None:
        return {"error": outcome.error.type}
    found |= {"run_id": outcome.run_id, "status": str(outcome.status), "output": outcome.output}
    return found


def seen_of_batch(found: BatchHandle[Any] | BatchResult[Any]) -> list[dict[str, Any]]:
    """What a caller sees of a batch: its items, and each says of which batch it is."""
    outcomes: Sequence[Any] = found.outcomes if isinstance(found, BatchHandle) else found.results
    of_batch = {"batch_id": found.id, "batch_is_cached": found.is_cached, "batch_differs": found.payload_differs}
    return [{**seen(outcome), **of_batch} for outcome in outcomes]


@task(id="asks", retry=Retry(max_attempts=1))
async def asks(script: Script) -> list[dict[str, Any]]:
    """Ask for runs in the form that the script names."""
    found = await _asked(script)
    if script.then == "fail":
        raise RuntimeError("as the script says")
    if script.then == "wait":
        await wait.for_(hours=1)
    return found


async def _asked(script: Script) -> list[dict[str, Any]]:
    limit = {} if script.wait_timeout is None else {"wait_timeout": script.wait_timeout}
    if script.form.startswith("batch"):
        options: dict[str, Any] = {}
        if script.key is not None:
            options["idempotency_key"] = idempotency_keys.create(script.key, scope=script.scope)  # type: ignore[arg-type]
        items = [tasks.item(ask.task, ask.payload, **options_of(ask, script.scope)) for ask in script.asks]
        if script.form == "batch_trigger":
            return seen_of_batch(await batch.trigger(items, **options))
        return seen_of_batch(await batch.trigger_and_wait(items, **options, **limit))
    found = []
    for ask in script.asks:
        given = options_of(ask, script.scope)
        try:
            if script.form == "trigger":
                found.append(seen(await tasks.trigger(ask.task, ask.payload, **given)))
            else:
                found.append(seen(await tasks.trigger_and_wait(ask.task, ask.payload, **given, **limit)))
        except HoldfastError as error:
            found.append(seen(error))
    return found


@task(id="echo")
async def echo(payload: Any) -> Any:
    """Return the payload."""
    return payload


@task(id="twice")
async def twice(number: int) -> int:
    """Return twice the payload."""
    return 2 * number


@task(id="fails", retry=Retry(max_attempts=1, **QUICK))
async def fails(payload: Any) -> None:
    """Fail each attempt."""
    raise ValueError(str(payload))


@task(id="fails-at-first", retry=Retry(max_attempts=3, **QUICK))
async def fails_at_first(failures: int, ctx: Context) -> int:
    """Fail so many attempts; before that make a child without a key, with one of the run, one of the attempt."""
    for key in (None, idempotency_keys.create("k"), idempotency_keys.create("k", scope="attempt")):
        await echo.trigger("child", **({} if key is None else {"idempotency_key": key}))
    if ctx.attempt.number <= failures:
        raise ValueError(f"attempt {ctx.attempt.number}")
    return ctx.attempt.number


@task(id="shows")
async def shows(payload: Any, ctx: Context) -> dict[str, Any]:
    """Return what a body sees of itself."""
    logger.info("showing", payload=payload)
    metadata.set("seen", True)
    return {
        "task": ctx.task.id,
        "run": ctx.run.id,
        "attempt": ctx.attempt.number,
        "queue": ctx.queue.name,
        "concurrency_key": ctx.queue.concurrency_key,
        "batch": ctx.batch.id if ctx.batch else None,
        "parent": ctx.run.parent_id,
        "root": ctx.run.root_id,
        "is_replay": ctx.run.is_replay,
        "tags": sorted(ctx.run.tags),
        "key": ctx.run.idempotency_key,
        "has_version": bool(ctx.version),
        "metadata": metadata.get("given"),
    }


@task(id="waits")
async def waits(payload: Any) -> None:
    """Wait for a long time."""
    await wait.for_(hours=1)


@task(id="short-waits")
async def short_waits() -> list[str]:
    """Every kind of wait that time ends."""
    await wait.for_(seconds=0.05)
    await wait.for_(timedelta(milliseconds=50))
    await wait.until(datetime.now(UTC) + timedelta(seconds=0.05))
    await wait.until(datetime.now(UTC) - timedelta(days=1))
    try:
        await wait.until(datetime(2020, 1, 1, tzinfo=UTC), throw_if_in_the_past=True)
    except HoldfastError as error:
        return [type(error).__name__]
    return []


@task(id="awaits-token")
async def awaits_token(token_id: str) -> dict[str, Any]:
    """Wait for a token; what came of it."""
    result = await wait.for_token(token_id)
    return {"ok": result.ok, "output": result.output, "error": result.error.type if result.error else None}


@task(id="creates-token")
async def creates_token(key: str) -> list[Any]:
    """Create tokens with and without a key; what is seen of them."""
    keyed = idempotency_keys.create(key, scope="global")
    found = [
        await wait.create_token(timeout="1h", tags=[key]),
        await wait.create_token(timeout=None, tags=[key], idempotency_key=keyed),
    ]
    return [[token.id, token.is_cached] for token in found]


def one_step() -> str:
    """A step's function."""
    return "done"


@task(id="has-all")
async def has_all(payload: Any) -> str:
    """A checkpoint of each kind, for those who look."""
    done = await step("one", one_step)
    await wait.for_(seconds=0.01)
    await echo.trigger(1)
    await echo.trigger_and_wait(2)
    await echo.batch_trigger([3, 4])
    await echo.batch_trigger_and_wait([5])
    token = await wait.create_token(timeout="1h")
    await wait.complete_token(token, {"data": 1})
    (await wait.for_token(token)).unwrap()
    return done


place = locals.create("place", str)


async def around(result: Any) -> AsyncIterator[None]:
    """A middleware."""
    locals.set(place, "local")
    logger.info("middleware begins")
    try:
        yield
    finally:
        logger.info("middleware ends", ok=result.ok)


async def starts(ctx: Context) -> None:
    logger.info("on_start_attempt", attempt=ctx.attempt.number)


async def waits_now() -> None:
    logger.info("on_wait")


async def resumes() -> None:
    logger.info("on_resume")


async def succeeds(output: Any) -> None:
    logger.info("on_success", output=output)
    raise RuntimeError("what a hook raises after the outcome changes nothing")


async def has_failed(error: BaseException) -> None:
    logger.info("on_failure", error=str(error))
    raise RuntimeError("nor this")


async def decides(error: BaseException) -> Any:
    logger.info("catch_error", error=str(error))
    return retry.skip() if "skip" in str(error) else retry.after(0)


async def completes(result: Any) -> None:
    logger.info("on_complete", ok=result.ok)


@task(
    id="hooked",
    retry=Retry(max_attempts=2, min_timeout=3600, max_timeout=3600),
    middleware=around,
    on_start_attempt=starts,
    on_wait=waits_now,
    on_resume=resumes,
    on_success=succeeds,
    on_failure=has_failed,
    catch_error=decides,
    on_complete=completes,
)
async def hooked(message: str | None) -> str:
    """Has every hook but `on_cancel`; fails with a message."""
    if message is not None:
        raise ValueError(message)
    tags.add("added")
    await wait.for_(seconds=0.05)
    return locals.get_or_throw(place)


class Answer:
    """What an HTTP client returns."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: dict[str, str] = {}


@task(id="calls", retry=Retry(max_attempts=1))
async def calls(pause: float) -> list[int]:
    """Calls that are tried again, inside the attempt: by an exception, and by a status."""
    policy = Retry(max_attempts=3, min_timeout=pause, max_timeout=pause, randomize=False)
    tries = []

    def throws(attempt: int) -> int:
        tries.append(attempt)
        if attempt < 2:
            raise ConnectionError("not yet")
        return attempt

    answers = iter([503, 429, 200])
    found = [await retry.on_throw(throws, policy)]
    if pause < 1:
        answer = await retry.fetch(lambda: Answer(next(answers)), {"429,500-599": policy})
        found.append(answer.status)
    return [*found, *tries]
