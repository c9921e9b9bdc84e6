"""A worker that is believed dead and is not: stopped past its lease, cut off, or half-open. It changes nothing."""

from __future__ import annotations

import pytest

from harness.frames import completes, records
from harness.stage import Stage, assert_undisturbed
from harness.waiting import wait_until


def test_a_stopped_worker_wakes_up_too_late(stage: Stage) -> None:
    """SIGSTOP past the lease, SIGCONT after the run has completed elsewhere."""
    stage.ready(1)
    zombie = stage.workers[0]
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    parked = stage.runs.trigger("journey", {"wait": 1.0})
    stage.runs.until(parked, "WAITING")
    zombie.pause()
    stage.gates.open(run_id, "started")
    stage.start_worker(wait=False)
    run = stage.runs.completed(run_id)
    assert (run.attempt, run.recoveries) == (1, 1)
    assert "silent for a whole lease" in str(run.attempts)
    stage.runs.completed(parked)
    before = (stage.counts(run_id), stage.counts(parked), stage.runs.get(run_id))
    zombie.unpause()
    stage.wait_for_workers(2)  # it is back, with a new session and without its bodies
    steady = stage.runs.trigger("steady")
    stage.runs.completed(steady)
    after = (stage.counts(run_id), stage.counts(parked), stage.runs.get(run_id))
    assert after == before
    assert before[0] == {"enter": 2, "first": 1, "after the wait": 1, "enter child": 1, "last": 1}


def test_a_stopped_worker_wakes_up_while_the_other_executes(stage: Stage) -> None:
    """Two bodies of one run live at once: only the one with the newer fence may write."""
    stage.ready(1)
    zombie = stage.workers[0]
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    zombie.pause()
    stage.start_worker(wait=False)
    stage.gates.reached(run_id, "started", times=2)
    zombie.unpause()
    stage.gates.open(run_id, "started")
    run = stage.runs.completed(run_id)
    assert (run.attempt, run.recoveries) == (1, 1)
    # The zombie's body may have come to its next plain line before it was stopped; its durable calls did nothing.
    counts = stage.counts(run_id)
    assert (counts["enter"], counts["first"], counts["enter child"], counts["last"]) == (2, 1, 1, 1)


def test_a_report_of_a_lost_worker_changes_nothing(stage: Stage) -> None:
    """Its completion is on its way while the worker is taken for dead, and goes on when another one has the run."""
    stage.ready(1)
    zombie = stage.workers[0]
    run_id = stage.new_run("ending")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "ending")
    late = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.gates.open(run_id, "ending")
    late.wait()
    stage.gates.close(run_id, "ending")
    zombie.pause()
    stage.start_worker(wait=False)
    stage.gates.reached(run_id, "ending", times=2)
    late.release()
    zombie.unpause()
    stage.wait_for_workers(2)
    assert stage.runs.get(run_id).status == "EXECUTING"
    stage.gates.open(run_id, "ending")
    run = stage.runs.completed(run_id)
    assert (run.attempt, run.recoveries) == (1, 1)
    assert stage.counts(run_id) == {"enter": 2, "first": 1, "after the wait": 2, "enter child": 1, "last": 1}


def test_a_cut_stream_costs_nothing(stage: Stage) -> None:
    """The worker is back within the grace: nobody noticed."""
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    parked = stage.runs.trigger("journey", {"wait": 1.0})
    stage.runs.until(parked, "WAITING")
    log = stage.workers[0].log_text
    stage.proxy.cut()
    wait_until(lambda: "resumed=True" in log().rpartition("event=disconnected")[2], "the worker is back")
    stage.gates.open(run_id, "started")
    for each in (run_id, parked):
        assert_undisturbed(stage.runs.completed(each))
        assert set(stage.counts(each).values()) == {1}


def test_a_cut_before_the_reply_repeats_nothing(stage: Stage) -> None:
    """The report is sent again, under its old number, and was committed already."""
    stage.ready()
    run_id = stage.new_run("child done")
    record = stage.proxy.catch("to_scheduler", records(run_id, "last"))
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "child done")
    stage.gates.open(run_id, "child done")
    record.wait()
    reply = stage.proxy.catch("to_worker", lambda frame: frame.delivery.HasField("committed"))
    record.release()
    reply.wait()
    stage.proxy.cut()
    reply.release()
    run = stage.runs.completed(run_id)
    assert_undisturbed(run)
    assert run.metadata == {"progress": 1}
    assert set(stage.counts(run_id).values()) == {1}


@pytest.mark.parametrize("place", ["started", "ending"])
def test_a_half_open_connection(stage: Stage, place: str) -> None:
    """Both ends believe in a stream that carries nothing. The worker holds at the end of its lease and comes back on a
    new one; the old one, still open at the scheduler, is of no account."""
    stage.ready()
    run_id = stage.new_run(place)
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, place)
    log = stage.workers[0].log_text
    stage.proxy.silence()
    stage.gates.open(run_id, place)
    wait_until(lambda: "event=hold_begins" in log(), "the worker holds")
    run = stage.runs.completed(run_id)
    # The scheduler may have seen the end of the lease first, or the worker: then it was back in time.
    assert (run.attempt, run.recoveries <= 1) == (1, True)
    counts = stage.counts(run_id)
    assert (counts["first"], counts["enter child"], counts["last"]) == (1, 1, 1)
    assert counts["enter"] == 1 + run.recoveries
