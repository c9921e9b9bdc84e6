"""A worker is killed with SIGKILL at each point of a run: as a whole, and an executor alone.

`enter` counts entries of the parent's body. What stands between two durable calls ("after the wait") may be repeated by
an entry that gets there again; what a durable call does may not.
"""

from __future__ import annotations

import os
import signal

from harness.frames import acknowledges, completes, resumes, starts
from harness.stage import Stage, assert_undisturbed
from harness.waiting import wait_until
from holdfast.run import Run


def judge(stage: Stage, run_id: str, *, entries: int, after_the_wait: int = 1) -> Run:
    """The run completed in its first attempt, with so many entries, and each durable call did its effect once."""
    run = stage.runs.completed(run_id)
    assert run.output == 42
    assert run.attempt == 1
    assert run.metadata == {"progress": 1}
    once = {"first": 1, "enter child": 1, "last": 1}
    assert stage.counts(run_id) == {"enter": entries, "after the wait": after_the_wait, **once}
    return run


def replace_worker(stage: Stage) -> None:
    stage.workers[0].kill()
    stage.ready()


# -- the worker as a whole


def test_worker_before_start(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    start = stage.proxy.catch("to_worker", starts(run_id))
    stage.runs.trigger("journey", {}, run_id)
    start.wait()
    replace_worker(stage)
    assert judge(stage, run_id, entries=1).recoveries == 1


def test_worker_after_start(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    stage.workers[0].kill()
    stage.gates.open(run_id, "started")
    stage.ready()
    assert judge(stage, run_id, entries=2).recoveries == 1


def test_worker_in_a_wait(stage: Stage) -> None:
    """A body that only waited was executed by nobody: losing it costs no recovery."""
    stage.ready()
    run_id = stage.runs.trigger("journey", {"wait": 2.0})
    stage.runs.until(run_id, "WAITING")
    replace_worker(stage)
    assert judge(stage, run_id, entries=2).recoveries == 0


def test_worker_while_the_child_executes(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    stage.workers[0].kill()
    stage.gates.open(run_id, "in child")
    stage.ready()
    run = stage.runs.completed(run_id)
    child = stage.runs.get(run.child_run_ids[0])
    assert (run.recoveries, child.recoveries) == (0, 1)
    assert stage.counts(run_id) == {"enter": 2, "first": 1, "after the wait": 2, "enter child": 2, "last": 1}


def test_worker_after_the_completion_of_the_child(stage: Stage) -> None:
    """The child has completed; the parent was told, and the news never arrived."""
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    news = stage.proxy.catch("to_worker", resumes(run_id))
    stage.gates.open(run_id, "in child")
    news.wait()
    replace_worker(stage)
    assert judge(stage, run_id, entries=2, after_the_wait=2).recoveries == 1


def test_worker_after_the_parent_learned_of_the_completion(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("child done")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "child done")
    stage.workers[0].kill()
    stage.gates.open(run_id, "child done")
    stage.ready()
    assert judge(stage, run_id, entries=2, after_the_wait=2).recoveries == 1


def test_worker_during_complete(stage: Stage) -> None:
    """The completion never reached the scheduler: the body is entered again, and does nothing again."""
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    replace_worker(stage)
    assert judge(stage, run_id, entries=2, after_the_wait=2).recoveries == 1


def test_worker_after_complete_before_the_reply(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    reply = stage.proxy.catch("to_worker", acknowledges)
    completion.release()
    reply.wait()
    replace_worker(stage)
    assert_undisturbed(judge(stage, run_id, entries=1))


# -- an executor alone


def test_executor_before_start(stage: Stage) -> None:
    """The Start waits in the link of an executor that reads it no more."""
    stage.ready()
    for process in stage.executors(stage.workers[0]):
        process.suspend()
    run_id = stage.runs.trigger("journey", {})
    stage.runs.until(run_id, "EXECUTING")
    stage.kill_executors(stage.workers[0])
    assert judge(stage, run_id, entries=1).recoveries == 1


def test_executor_after_start(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    stage.kill_executors(stage.workers[0])
    stage.gates.open(run_id, "started")
    run = judge(stage, run_id, entries=2)
    assert run.recoveries == 1
    (lost,) = [attempt for attempt in run.attempts if attempt.state == "LOST"]
    assert lost.error is not None
    assert "signal 9" in lost.error.message


def test_executor_in_a_wait(stage: Stage) -> None:
    stage.ready()
    run_id = stage.runs.trigger("journey", {"wait": 2.0})
    stage.runs.until(run_id, "WAITING")
    stage.kill_executors(stage.workers[0])
    assert judge(stage, run_id, entries=2).recoveries == 0


def test_executor_after_the_completion_of_the_child(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    news = stage.proxy.catch("to_worker", resumes(run_id))
    stage.gates.open(run_id, "in child")
    news.wait()
    stage.kill_executors(stage.workers[0])
    wait_until(lambda: "event=executor_exited" in stage.workers[0].log_text(), "the worker has noticed")
    news.release()
    # The news reached a worker that had no body any more: it hands the run back or says that it is lost.
    assert judge(stage, run_id, entries=2, after_the_wait=2).recoveries <= 1


def test_executor_during_complete(stage: Stage) -> None:
    """What the supervisor has is not lost with the executor."""
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    stage.kill_executors(stage.workers[0])
    completion.release()
    assert_undisturbed(judge(stage, run_id, entries=1))


def test_executor_after_complete_before_the_reply(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run()
    completion = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.runs.trigger("journey", {}, run_id)
    completion.wait()
    reply = stage.proxy.catch("to_worker", acknowledges)
    completion.release()
    reply.wait()
    stage.kill_executors(stage.workers[0])
    reply.release()
    assert_undisturbed(judge(stage, run_id, entries=1))


def test_one_executor_of_several(stage: Stage) -> None:
    """Who executes beside the one that was killed never notices."""
    stage.ready()
    stage.workers[0].kill()
    stage.workers.clear()
    stage.start_worker(processes=2)
    placed: dict[str, str] = {}

    def in_both() -> bool:
        run_id = stage.new_run("started")
        stage.runs.trigger("placed", None, run_id)
        stage.gates.reached(run_id, "started")
        placed[run_id] = stage.effects(run_id)[0].identity
        return len(set(placed.values())) == 2

    wait_until(in_both, "runs in both executors")
    victim = next(iter(placed.values()))
    os.kill(int(victim), signal.SIGKILL)
    for run_id in placed:
        stage.gates.open(run_id, "started")
    for run_id, executor in placed.items():
        run = stage.runs.completed(run_id)
        assert (run.attempt, run.recoveries) == (1, int(executor == victim))
        assert len(stage.effects(run_id)) == 1 + run.recoveries
    stage.workers[0].kill()


def test_worker_whose_thread_waits(stage: Stage) -> None:
    """A `def` body blocks its thread in a wait for its child; another worker's thread goes on with what is recorded."""
    stage.ready()
    run_id = stage.new_run("in child")
    stage.runs.trigger("blocking", 21, run_id)
    stage.gates.reached(run_id, "in child")
    stage.runs.until(run_id, "WAITING")
    stage.workers[0].kill()
    stage.ready()
    stage.gates.reached(run_id, "in child", times=2)
    stage.gates.open(run_id, "in child")
    run = stage.runs.completed(run_id)
    assert (run.output, run.attempt, run.recoveries) == (42, 1, 0)
    assert stage.counts(run_id) == {"enter": 2, "enter child": 2}
