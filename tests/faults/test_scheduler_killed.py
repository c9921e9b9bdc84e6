"""The scheduler is killed with SIGKILL at each point of a run, and at random ones.

Nothing that was acknowledged is lost, and no body notices: it is not entered again, no attempt and no recovery is used.
"""

from __future__ import annotations

import random
import threading
from collections import Counter

from harness.frames import acknowledges, completes, records, resumes, starts
from harness.ledger import repeated_fences
from harness.stage import Stage, assert_undisturbed

UNINTERRUPTED = {"enter": 1, "first": 1, "after the wait": 1, "enter child": 1, "last": 1}
SEED = 4653
MOMENTS = 5
RUNS = 12


def judge(stage: Stage, run_id: str) -> None:
    """The run completed as if nothing had happened, and its child too."""
    run = stage.runs.completed(run_id)
    assert run.output == 42
    assert run.metadata == {"progress": 1}
    assert_undisturbed(run)
    for child in run.child_run_ids:
        assert_undisturbed(stage.runs.get(child))
    assert stage.counts(run_id) == UNINTERRUPTED


def test_before_start(stage: Stage) -> None:
    """The Start was committed and never arrived."""
    stage.ready()
    run_id = stage.new_run()
    start = stage.proxy.catch("to_worker", starts(run_id))
    stage.runs.trigger("journey", {}, run_id)
    start.wait()
    stage.restart_scheduler()
    judge(stage, run_id)


def test_before_any_worker(stage: Stage) -> None:
    """An acknowledged trigger that nobody could start yet."""
    stage.ready()
    stage.workers[0].kill()
    run_id = stage.runs.trigger("journey", {})
    stage.restart_scheduler()
    stage.ready()
    judge(stage, run_id)


def test_after_start(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    stage.kill_scheduler()
    stage.gates.open(run_id, "started")  # it goes on while there is no scheduler, as far as it gets
    stage.start_scheduler()
    judge(stage, run_id)


def test_before_a_checkpoint_arrives(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    record = stage.proxy.catch("to_scheduler", records(run_id, "first"))
    stage.runs.trigger("journey", {}, run_id)
    record.wait()
    stage.restart_scheduler()
    judge(stage, run_id)


def test_after_a_checkpoint_before_the_reply(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    record = stage.proxy.catch("to_scheduler", records(run_id, "first"))
    stage.runs.trigger("journey", {}, run_id)
    record.wait()
    reply = stage.proxy.catch("to_worker", acknowledges)
    record.release()
    reply.wait()
    stage.restart_scheduler()
    judge(stage, run_id)


def test_in_a_wait(stage: Stage) -> None:
    stage.ready()
    run_id = stage.runs.trigger("journey", {"wait": 1.0})
    stage.runs.until(run_id, "WAITING")
    stage.restart_scheduler()
    judge(stage, run_id)


def test_in_a_wait_that_ends_meanwhile(stage: Stage) -> None:
    stage.ready()
    run_id = stage.runs.trigger("journey", {"wait": 1.0})
    due = stage.runs.until(run_id, "WAITING").due_at
    assert due is not None
    stage.kill_scheduler()
    stage.start_scheduler()  # takes longer than the wait
    judge(stage, run_id)


def test_while_the_child_executes(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    stage.kill_scheduler()
    stage.gates.open(run_id, "in child")  # the child completes while there is no scheduler
    stage.start_scheduler()
    judge(stage, run_id)


def test_after_the_completion_of_the_child(stage: Stage) -> None:
    """The Resume was committed and never arrived: the parked body continues in place all the same."""
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    news = stage.proxy.catch("to_worker", resumes(run_id))
    stage.gates.open(run_id, "in child")
    news.wait()
    stage.restart_scheduler()
    judge(stage, run_id)


def test_during_complete(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    stage.restart_scheduler()
    judge(stage, run_id)


def test_after_complete_before_the_reply(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    reply = stage.proxy.catch("to_worker", acknowledges)
    completion.release()
    reply.wait()
    stage.kill_scheduler()
    stage.start_scheduler()
    judge(stage, run_id)


def test_after_an_acknowledged_cancellation(stage: Stage) -> None:
    """Acknowledged means that it ends CANCELED, though the worker had not heard of it."""
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    order = stage.proxy.catch("to_worker", lambda frame: frame.delivery.cancels)
    assert stage.runs.cancel(run_id).status == "CANCELING"
    order.wait()
    stage.restart_scheduler()
    stage.gates.open(run_id, "started")
    run = stage.runs.end(run_id)
    assert run.status == "CANCELED"
    assert stage.counts(run_id) == {"enter": 1, "first": 1}


def test_at_any_moment(stage: Stage) -> None:
    """Five kills at random while runs are triggered and executed. The moments come from a seed."""
    stage.ready(2)
    moments = random.Random(SEED)
    acknowledged: list[str] = []
    done = threading.Event()

    def keep_triggering() -> None:
        while not done.is_set() or len(acknowledged) < RUNS:
            acknowledged.append(stage.runs.trigger("many", 6))
            done.wait(0.2)

    triggering = threading.Thread(target=keep_triggering)
    triggering.start()
    try:
        for _ in range(MOMENTS):
            done.wait(moments.uniform(0.05, 0.8))
            stage.restart_scheduler()
    finally:
        done.set()
        triggering.join()
    total = sum(range(6)) + sum(number + 1 for number in (2, 5))
    for run_id in acknowledged:
        run = stage.runs.completed(run_id)
        assert (run.output, run.metadata) == (total, {"steps": 6})
        assert_undisturbed(run)
        steps = {f"step {number}": 1 for number in range(6)}
        assert Counter(stage.counts(run_id)) == {"enter": 1, **steps, "child 2": 1, "child 5": 1}
    assert not repeated_fences(stage.ledger.read())
