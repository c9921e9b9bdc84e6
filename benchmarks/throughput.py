"""Measurements 1 and 2: no-op runs in batches and one by one, and steps; beside them the limit of the database."""

from __future__ import annotations

from benchmarks import limit, profile
from benchmarks.bench import Bench
from benchmarks.readings import at_least, at_most
from benchmarks.stage import Stage

BATCH_RUNS = 20_000
SINGLE_RUNS = 6_000
CLIENTS = 10
STEP_RUNS = 500
PROFILED_RUNS = 40_000


def batches(bench: Bench) -> None:
    """No-op runs end to end, in batches of 500."""
    total = bench.size(BATCH_RUNS)
    for _ in bench.repeat():
        with bench.stage() as stage:
            outcome = stage.carry("batches", total=total)
            bench.record("no-op runs in batches of 500", "runs/s", outcome.runs_per_second)
            scheduler = outcome.cpu_s["scheduler"] / outcome.runs * 1e6
            bench.record("scheduler's CPU", "µs/run", scheduler, at_most(80))
            bench.record_cost("batches", outcome)
        bare = _limit(bench, total)
        bench.record("the limit: bare driver", "runs/s", bare)
        bench.record("share of the limit", "%", outcome.runs_per_second / bare * 100, at_least(25))
    if bench.options.profile:
        with bench.stage() as stage:
            _profile(bench, stage)


def _limit(bench: Bench, total: int) -> float:
    with bench.empty_database() as url:
        return limit.runs_per_second(url, total)


def _profile(bench: Bench, stage: Stage) -> None:
    watched = {"scheduler": stage.schedulers[0].pid, "supervisor": stage.workers[0].pid}
    watched["executor"] = stage.executors()[0].pid
    recording = profile.Recording(watched)
    if not recording.missing:
        outcome = stage.carry("batches", total=bench.size(PROFILED_RUNS), around=recording)
    if recording.missing:
        bench.note(f"profile skipped: {recording.missing}")
        return
    core = outcome.cpu_s["gRPC core in scheduler"] / max(outcome.cpu_s["scheduler"], 1e-9)
    for role, stacks in recording.stacks.items():
        # The profiler sees Python's threads; the core's threads are known from the kernel's books.
        python = 1 - core if role == "scheduler" else 1.0
        for owner, share in profile.shares(stacks).items():
            of_core = core if owner == "gRPC" and role == "scheduler" else 0.0
            bench.record(f"profile of the {role}: {owner}", "%", 100 * (share * python + of_core))
        for function, share in profile.hottest(stacks):
            bench.note(f"profile of the {role}: {100 * share:4.1f} % in {function}")


def singles(bench: Bench) -> None:
    """Triggers one by one: from 100 coroutines of one process, and from 10 processes."""
    total = bench.size(SINGLE_RUNS)
    for _ in bench.repeat():
        with bench.stage() as stage:
            outcome = stage.carry("singles", total=total)
            acknowledged = outcome.runs / outcome.found[0]["acknowledged_s"]
            bench.record("single triggers, one process", "triggers/s", acknowledged, at_least(3000))
            bench.record("their results recorded, one process", "runs/s", outcome.runs_per_second)
            bench.record_cost("singles", outcome)
            outcome = stage.carry("round_trips", total=total)
            bench.record("trigger and result in turn, 100 coroutines", "runs/s", outcome.runs_per_second)
            outcome = stage.carry("singles", clients=CLIENTS, total=total // CLIENTS, coroutines=10)
            started = min(one["started"] for one in outcome.found)
            ended = max(one["started"] + one["acknowledged_s"] for one in outcome.found)
            bench.record("single triggers, 10 processes", "triggers/s", outcome.runs / (ended - started))
            bench.record("their results recorded, 10 processes", "runs/s", outcome.runs_per_second)


def steps(bench: Bench) -> None:
    """500 runs of 5 steps each, 100 at a time."""
    for _ in bench.repeat():
        with bench.stage() as stage:
            outcome = stage.carry("steps", total=bench.size(STEP_RUNS, 100))
            count = sum(one["steps"] for one in outcome.found)
            bench.record("steps", "steps/s", count / outcome.seconds, at_least(5000))
            bench.record("runs of five steps", "runs/s", outcome.runs_per_second)
            bench.record_cost("steps", outcome)
            outcome = stage.carry("steps", total=bench.size(STEP_RUNS, 100), plain=True)
            count = sum(one["steps"] for one in outcome.found)
            bench.record("steps that are plain functions", "steps/s", count / outcome.seconds)
