"""A run that kills its workers: back-off between recoveries, a bound, and the evidence at its end; and the drain."""

from __future__ import annotations

import signal

from harness.stage import Stage, assert_undisturbed
from harness.waiting import wait_until


def test_a_run_that_kills_its_executors_is_stopped(stage: Stage) -> None:
    """`max_recoveries=2`: entered three times, the last time after a back-off, then CRASHED with the evidence."""
    stage.ready(2)
    run_id = stage.runs.trigger("killer")
    steady = stage.new_run("started")
    stage.runs.trigger("steady", None, steady)
    run = stage.runs.end(run_id)
    assert (run.status, run.attempt, run.recoveries) == ("CRASHED", 1, 3)
    assert run.error is not None
    assert "signal 9" in run.error.message
    assert stage.counts(run_id)["enter"] == 3
    lost = [attempt for attempt in run.attempts if attempt.state == "LOST"]
    assert len(lost) == 3, run.attempts
    first, second, third = [attempt.ended_at for attempt in lost]
    assert first is not None
    assert second is not None
    assert third is not None
    assert (third - second).total_seconds() >= 1.0  # the first recovery is at once, the second waits
    stage.gates.open(steady, "started")
    assert stage.runs.completed(steady).attempt == 1  # somebody else's run beside it


def test_one_loss_is_recovered_from(stage: Stage) -> None:
    stage.ready()
    run = stage.runs.completed(stage.runs.trigger("killer-once"))
    assert (run.output, run.attempt, run.recoveries) == (1, 1, 1)


def test_drain_lets_work_finish(stage: Stage) -> None:
    """SIGTERM: what executes may end; what is parked goes elsewhere; neither costs anything."""
    stage.ready(1)
    leaving = stage.workers[0]
    executing = stage.new_run("started")
    stage.runs.trigger("steady", None, executing)
    stage.gates.reached(executing, "started")
    parked = stage.runs.trigger("journey", {"wait": 4.0})
    stage.runs.until(parked, "WAITING")
    leaving.send(signal.SIGTERM)
    wait_until(lambda: "event=drain " in leaving.log_text(), "the worker drains")
    stage.start_worker()
    fresh = stage.new_run()
    stage.runs.trigger("steady", None, fresh)
    stage.runs.completed(fresh)
    assert leaving.exit_code is None  # it waits for what it executes
    stage.gates.open(executing, "started")
    assert leaving.wait() == 0
    for run_id, entries in ((executing, 1), (parked, 2)):
        assert_undisturbed(stage.runs.completed(run_id))
        assert stage.counts(run_id)["enter"] == entries


def test_drain_hands_back_what_does_not_finish(stage: Stage) -> None:
    """After the drain timeout the run is released: no attempt, no recovery."""
    stage.ready(1)
    stage.workers[0].kill()
    stage.workers.clear()
    leaving = stage.start_worker(environment={"HOLDFAST_DRAIN_TIMEOUT": "0.3"})
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    stage.start_worker()
    leaving.send(signal.SIGTERM)
    assert leaving.wait() == 0
    stage.gates.open(run_id, "started")
    run = stage.runs.completed(run_id)
    assert_undisturbed(run)
    assert stage.counts(run_id) == {"enter": 2, "first": 1, "after the wait": 1, "enter child": 1, "last": 1}


def test_scheduler_stopped_by_its_operator(stage: Stage) -> None:
    """SIGTERM of the scheduler with runs in every state: nobody notices."""
    stage.ready()
    executing = stage.new_run("started")
    stage.runs.trigger("journey", {}, executing)
    stage.gates.reached(executing, "started")
    parked = stage.runs.trigger("journey", {"wait": 1.0})
    stage.runs.until(parked, "WAITING")
    assert stage.scheduler is not None
    assert stage.scheduler.stop() == 0
    stage.start_scheduler()
    stage.gates.open(executing, "started")
    for run_id in (executing, parked):
        assert_undisturbed(stage.runs.completed(run_id))
        assert set(stage.counts(run_id).values()) == {1}
