"""Hooks, clean-up, logs and time limits with real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from harness.processes import Deployment, ServerProcess
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast.v1 import run_pb2

TASKS = """
import asyncio, os
from holdfast import Context, Retry, logger, metadata, retry, runs, shielded, step, tags, task, tasks, wait

@tasks.on_complete
async def complete(result, ctx: Context):
    logger.info("complete", status=str(result.status))

async def cleaned() -> str:
    return "cleaned"

async def on_cancel():
    await wait.for_(seconds=0.2)
    metadata.set("on_cancel", await step("clean", cleaned))

@task(id="cancel-me", on_cancel=on_cancel)
async def cancel_me(signal) -> None:
    metadata.set("began", True)
    await signal

@task(id="shields")
async def shields(signal) -> None:
    metadata.set("began", True)
    await signal
    async with shielded():
        await wait.for_(seconds=0.2)
        metadata.set("undone", await step("clean", cleaned))
        await greet.trigger("undo")

@task(id="greet")
async def greet(payload: str, ctx: Context) -> dict[str, object]:
    logger.info("greeting", name=payload)
    tags.add("greeted")
    await step("a", cleaned)
    logger.warning("greeted")
    address = os.environ["HOLDFAST_ADDRESS"]
    return {"run": ctx.run.id, "version": bool(ctx.version), "address": address, "queue": ctx.queue.name}

async def handle(error, ctx: Context):
    return retry.after(0) if ctx.attempt.number == 1 else retry.skip()

@task(id="fails", retry=Retry(max_attempts=5, min_timeout=3600, max_timeout=3600), catch_error=handle)
async def fails(ctx: Context) -> None:
    logger.error("failing", attempt=ctx.attempt.number)
    raise ValueError("broken")

@task(id="sleeps", max_duration=3600)
async def sleeps() -> None:
    await asyncio.sleep(3600)

@task(id="dies", max_duration=0.6, max_recoveries=100)
async def dies() -> None:
    await asyncio.sleep(0.4)
    os.kill(os.getpid(), 9)

@task(id="waits")
async def waits() -> None:
    await wait.for_(hours=1)
"""


@pytest.fixture
def site(deploy: Callable[..., Deployment], database_url: str) -> Deployment:
    deployment: Deployment = deploy(database_url)
    (deployment.folder / "shop.py").write_text(TASKS)
    deployment.start_scheduler()
    return deployment


@pytest.fixture
def worker(site: Deployment) -> ServerProcess:
    worker = site.start_worker("shop.py")
    site.wait_for_workers("greet")
    return worker


def log(site: Deployment, run_id: str) -> list[dict[str, Any]]:
    done = site.holdfast("runs", "logs", run_id, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def limits(**seconds: float) -> run_pb2.TriggerOptions:
    options = run_pb2.TriggerOptions()
    for name, value in seconds.items():
        getattr(options, name).CopyFrom(Duration(seconds=int(value), nanos=int(value % 1 * 1e9)))
    return options


def test_hooks_logs_and_clean_up(site: Deployment, worker: ServerProcess) -> None:
    runs = Runs(site)
    greeted, failed = runs.trigger("greet", "you"), runs.trigger("fails")
    canceled = [runs.trigger("cancel-me"), runs.trigger("shields")]
    run = runs.completed(greeted)
    assert run.output == {"run": greeted, "version": True, "address": site.address, "queue": "task/greet"}
    assert list(run.tags) == ["greeted"]
    assert [(line["level"], line["message"], line["fields"]) for line in log(site, greeted)] == [
        ("info", "greeting", {"name": "you"}),
        ("warning", "greeted", {}),
        ("info", "complete", {"status": "COMPLETED"}),
    ]
    run = runs.end(failed)
    assert (run.status, run.attempt) == ("FAILED", 2)
    assert [(line["message"], line["attempt"]) for line in log(site, failed)] == [
        ("failing", 1), ("failing", 2), ("complete", 2),
    ]  # fmt: skip
    for run_id in canceled:
        wait_until(lambda run_id=run_id: runs.get(run_id).metadata.get("began"), f"{run_id} has begun")
        runs.cancel(run_id)
    cleaned, shielded = (runs.end(run_id) for run_id in canceled)
    assert (cleaned.status, shielded.status) == ("CANCELED", "CANCELED")
    assert cleaned.metadata["on_cancel"] == "cleaned"
    assert shielded.metadata["undone"] == "cleaned"
    assert [c.name for c in shielded.checkpoints if c.kind == "STEP"] == ["clean"]
    assert len(shielded.child_run_ids) == 1
    assert log(site, canceled[0])[-1]["fields"] == {"status": "CANCELED"}


def test_limits_of_a_trigger(site: Deployment, worker: ServerProcess) -> None:
    runs = Runs(site)
    short = runs.trigger("sleeps", options=limits(max_duration=0.2))
    bounded = runs.trigger("sleeps", options=limits(timeout=0.3))
    waiting = runs.trigger("waits", options=limits(timeout=0.3))
    later = runs.trigger("waits", options=limits(delay=3600, timeout=0.3))
    for run_id in (short, bounded, waiting, later):
        assert runs.end(run_id).status == "TIMED_OUT"
    assert "max_duration" in runs.get(short).error.message
    assert runs.get(later).attempt == 0


def test_a_run_that_kills_its_executors_cannot_exceed_its_max_duration(site: Deployment, worker: ServerProcess) -> None:
    runs = Runs(site)
    run = runs.end(runs.trigger("dies"))
    assert (run.status, run.attempt) == ("TIMED_OUT", 1)
    assert 1 <= run.recoveries <= 2


def test_a_run_that_never_starts_expires(site: Deployment, worker: ServerProcess) -> None:
    worker.kill()
    runs = Runs(site)
    assert runs.end(runs.trigger("greet", "you", options=limits(ttl=0.3))).status == "EXPIRED"
