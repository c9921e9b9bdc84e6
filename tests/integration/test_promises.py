"""Each promise of the design (section 3) that real processes can show, by a test named for it; then what section 4 says
of how a body executes. The outside ledger judges."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from harness.frames import completes
from harness.stage import Stage, assert_undisturbed
from harness.waiting import wait_until
from holdfast import ids
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart, TriggerItem, TriggerOptions


def key(*parts: str) -> IdempotencyKey:
    return IdempotencyKey(parts=[KeyPart(text=part) for part in parts], scope="KEY_SCOPE_GLOBAL")


# -- section 3


def test_promise_1_accepted_means_durable(stage: Stage) -> None:
    """Triggers and a cancellation that were acknowledged survive SIGKILL of every process at once."""
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "started")
    delayed = stage.runs.trigger("steady", None, options=TriggerOptions(tags=["kept"]))
    canceled = stage.runs.trigger("journey", {"wait": 60})
    stage.runs.until(canceled, "WAITING")
    assert stage.runs.cancel(canceled).status == "CANCELED"
    queued = stage.runs.trigger("journey", {})
    stage.kill_scheduler()
    stage.workers[0].kill()
    stage.gates.open(run_id, "started")
    stage.ready()
    for each in (run_id, queued):
        assert stage.runs.completed(each).output == 42
    assert stage.runs.completed(delayed).tags == ("kept",)
    assert stage.runs.end(canceled).status == "CANCELED"
    assert stage.counts(run_id)["first"] == 1


def test_promise_2_one_owner(stage: Stage) -> None:
    """Two executions of one run live; only that with the newer fence writes."""
    stage.ready(1)
    run_id = stage.new_run("ending")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "ending")
    late = stage.proxy.catch("to_scheduler", completes(run_id))
    stage.gates.open(run_id, "ending")
    late.wait()
    stage.gates.close(run_id, "ending")
    zombie = stage.workers[0]
    zombie.pause()
    stage.start_worker(wait=False)
    stage.gates.reached(run_id, "ending", times=2)
    late.release()
    zombie.unpause()
    stage.wait_for_workers(2)
    assert stage.runs.get(run_id).status == "EXECUTING"
    stage.gates.open(run_id, "ending")
    stage.runs.completed(run_id)
    fences = {effect.fence for effect in stage.effects(run_id) if effect.identity == "last"}
    assert len(fences) == 1


def test_promise_3_a_successful_checkpoint_is_never_done_again(stage: Stage) -> None:
    """Over three attempts: success is kept, a transient failure is asked again, a permanent one is kept."""
    stage.ready()
    run = stage.runs.completed(stage.runs.trigger("fallback"))
    assert (run.attempt, run.recoveries) == (3, 0)
    assert run.output == ["transient: StepFailedError", "permanent: StepAbortedError"]
    assert stage.counts(run.id) == {"enter": 3, "kept": 1, "transient": 3, "permanent": 1}


def test_promise_3_a_recovery_sees_what_the_body_saw(stage: Stage) -> None:
    """Failures are kept within their attempt, also when another worker enters the body again."""
    stage.ready()
    run_id = stage.new_run("failed")
    stage.runs.trigger("fails-once-kept", None, run_id)
    stage.gates.reached(run_id, "failed")
    stage.workers[0].kill()
    stage.gates.open(run_id, "failed")
    stage.ready()
    run = stage.runs.completed(run_id)
    assert (run.attempt, run.output) == (1, "StepFailedError")
    assert stage.counts(run_id) == {"enter": 2, "fails": 1}


def test_promise_4_a_parked_body_continues_in_place(stage: Stage) -> None:
    stage.ready()
    run = stage.runs.completed(stage.runs.trigger("many", 6))
    assert_undisturbed(run)
    assert stage.counts(run.id)["enter"] == 1
    waits = [one for one in run.checkpoints if one.kind in ("WAIT", "CHILD")]
    assert len(waits) == 4


def test_promise_4_a_body_is_reentered_when_its_worker_is_gone(stage: Stage) -> None:
    """Recorded checkpoints answer at once until the body reaches new ground."""
    stage.ready()
    run_id = stage.new_run("child done")
    stage.runs.trigger("journey", {}, run_id)
    stage.gates.reached(run_id, "child done")
    stage.workers[0].kill()
    stage.gates.open(run_id, "child done")
    stage.ready()
    run = stage.runs.completed(run_id)
    counts = stage.counts(run_id)
    assert counts == {"enter": 2, "first": 1, "after the wait": 2, "enter child": 1, "last": 1}
    assert len(run.child_run_ids) == 1


def test_promise_5_never_a_wrong_answer(stage: Stage) -> None:
    """A body that does something else at re-entry gets NonDeterminismError, never another call's record."""
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("changed-body", 1, run_id)
    stage.gates.reached(run_id, "started")
    stage.workers[0].kill()
    stage.gates.open(run_id, "started")
    stage.ready()
    run = stage.runs.end(run_id)
    assert run.status == "FAILED"
    assert run.error is not None
    assert run.error.type == "NonDeterminismError"
    assert "charge" in run.error.message
    assert "stage_tasks.py:" in run.error.message
    charged = [identity for identity in stage.counts(run_id) if identity.startswith("charge")]
    assert len(charged) == 1


def test_promise_6_a_key_names_one_run_and_races_have_one_winner(stage: Stage) -> None:
    stage.ready()
    items = [
        TriggerItem(
            task_id="steady",
            run_id=ids.new_run_id(),
            payload=Payload(data=b"null"),
            idempotency_key=key("one", "winner"),
        )
        for _ in range(20)
    ]
    calls = [stage.runs.stub.Trigger.future(api.TriggerRequest(items=[item])) for item in items]
    handles = [call.result(timeout=30).outcomes[0].handle for call in calls]
    (winner,) = {handle.run_id for handle in handles}
    assert sorted(handle.is_cached for handle in handles) == [False] + [True] * 19
    stage.runs.completed(winner)
    stage.restart_scheduler()
    again = stage.runs.trigger("steady", None, idempotency_key=key("one", "winner"))
    assert again == winner
    assert stage.counts(winner) == {"enter": 1}


def test_promise_7_a_run_always_moves_and_explain_names_who_moves_it(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("journey", {"wait": 1.0}, run_id)
    stage.gates.reached(run_id, "started")

    def why(run: str) -> str:
        return str(stage.runs.stub.ExplainRun(api.ExplainRunRequest(run_id=run), timeout=10).sentence)

    assert stage.workers[0].name in why(run_id)
    stage.gates.open(run_id, "started")
    stage.runs.until(run_id, "WAITING")
    assert why(run_id)
    stage.workers[0].kill()
    queued = stage.runs.trigger("steady")
    wait_until(lambda: "worker" in why(queued), "it says that there is no worker")
    stage.ready()
    stage.runs.completed(run_id)
    stage.runs.completed(queued)


def test_promise_8_everything_has_a_limit(lite_stage: Stage) -> None:
    """Each names itself when it is met, and the next run is not concerned."""
    lite_stage.ready()
    with pytest.raises(grpc.RpcError) as caught:
        lite_stage.runs.stub.WaitRun(api.WaitRunRequest(run_id="run_"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    item = TriggerItem(task_id="steady", payload=Payload(data=b"x" * (1024 * 1024 + 1)))
    outcome = lite_stage.runs.stub.Trigger(api.TriggerRequest(items=[item]), timeout=10).outcomes[0]
    assert "payload_bytes" in outcome.error.message
    item = TriggerItem(task_id="steady", payload=Payload(data=b"null"))
    item.options.tags.extend(str(number) for number in range(11))
    outcome = lite_stage.runs.stub.Trigger(api.TriggerRequest(items=[item]), timeout=10).outcomes[0]
    assert "tags" in outcome.error.message
    run = lite_stage.runs.end(lite_stage.runs.trigger("large-step"))
    assert run.status == "FAILED"
    assert run.error is not None
    assert "262,144" in run.error.message or "262144" in run.error.message
    lite_stage.runs.completed(lite_stage.runs.trigger("steady"))


def test_promise_9_what_can_happen_twice(stage: Stage) -> None:
    """An effect whose checkpoint was not committed may happen again, once per recovery; a committed one never does."""
    stage.ready()
    run_id = stage.new_run("in the effect")
    stage.runs.trigger("slow-effect", None, run_id)
    stage.gates.reached(run_id, "in the effect")
    stage.workers[0].kill()
    stage.gates.open(run_id, "in the effect")
    stage.ready()
    run = stage.runs.completed(run_id)
    assert run.recoveries == 1
    assert stage.counts(run_id) == {"enter": 2, "committed": 1, "not committed": 2}


# -- section 4


BRANCHES = ["branches-gather", "branches-group", "branches-as-completed", "branches-wait-for"]


@pytest.mark.parametrize(("crash", "victim"), [(0, "worker"), (1, "executors"), (2, "worker")])
@pytest.mark.parametrize("task", BRANCHES)
def test_branches_survive_a_crash(stage: Stage, task: str, crash: int, victim: str) -> None:
    """One branch is at a door while the others have ended; then it is killed."""
    stage.ready()
    door = f"branch {crash}"
    run_id = stage.new_run(door)
    stage.runs.trigger(task, None, run_id)
    stage.gates.reached(run_id, door)

    def others_have_ended() -> bool:  # committed, that is: the ledger knows of an effect before the database does
        recorded = [one for one in stage.runs.get(run_id).checkpoints if one.name == "two"]
        return [one.status for one in recorded] == ["SUCCEEDED"] * 2

    wait_until(others_have_ended, "the other branches have ended")
    kill(stage, victim)
    stage.gates.open(run_id, door)
    stage.ready()
    run = stage.runs.completed(run_id)
    assert run.output == [0, 2, 4]
    assert run.attempt == 1
    counts = stage.counts(run_id)
    for number in range(3):
        assert (counts[f"{number}: one"], counts[f"{number}: two"]) == (1, 1)
    assert (counts["enter"], counts["enter child"]) == (2, 3)


@pytest.mark.parametrize("victim", ["worker", "executors"])
def test_a_gather_of_two_hundred_durable_calls_survives_a_kill_in_the_middle(stage: Stage, victim: str) -> None:
    """Half of the calls have ended but for some children, the other half is not made yet."""
    stage.ready()
    run_id = stage.new_run("middle", "in child")
    stage.runs.trigger("large-gather", 200, run_id)

    def half_has_ended() -> bool:
        recorded = stage.runs.get(run_id).checkpoints
        return len(recorded) == 100 and sum(one.status == "SUCCEEDED" for one in recorded) == 95

    wait_until(half_has_ended, "half of the calls have ended")
    kill(stage, victim)
    stage.gates.open(run_id, "in child")
    stage.gates.open(run_id, "middle")
    stage.ready()
    run = stage.runs.completed(run_id)
    assert (run.output, run.attempt) == (sum(range(200)), 1)
    assert len(run.checkpoints) == 200
    assert {one.status for one in run.checkpoints} == {"SUCCEEDED"}
    assert len(run.child_run_ids) == 60
    counts = stage.counts(run_id)
    assert counts.pop("enter") == 2
    assert 10 <= counts.pop("enter child") <= 15  # those at the door were entered again
    assert set(counts.values()) == {1}
    assert len(counts) == 50 + 90


def kill(stage: Stage, victim: str) -> None:
    """SIGKILL the worker as a whole, or its executors alone."""
    if victim == "worker":
        stage.workers[0].kill()
    else:
        stage.kill_executors(stage.workers[0])


def test_metadata_is_not_counted_twice_over_a_reentry(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("counted", None, run_id)
    stage.gates.reached(run_id, "started")
    wait_until(lambda: stage.runs.get(run_id).metadata.get("count") == 2, "the provisional count is shown")
    stage.workers[0].kill()
    stage.gates.open(run_id, "started")
    stage.ready()
    assert stage.runs.completed(run_id).metadata == {"count": 3}
    assert stage.counts(run_id)["enter"] == 2


def test_finally_of_a_parked_body_does_not_run_when_it_is_let_go_of(stage: Stage) -> None:
    """A drained worker abandons the body and exits; the `finally` runs once, where the body ends."""
    stage.ready()
    run_id = stage.runs.trigger("parked-finally")
    stage.runs.until(run_id, "WAITING")
    leaving = stage.workers.pop()
    assert leaving.stop() == 0
    assert stage.counts(run_id) == {"enter": 1}
    stage.ready()
    assert stage.runs.completed(run_id).output == "done"
    assert stage.counts(run_id) == {"enter": 2, "finally": 1}


def test_promise_7_waiting_runs_beyond_what_an_executor_keeps_block_nobody(stage: Stage) -> None:
    """A full executor leaves; another takes the next runs, and what waited is entered again when its wait is over."""
    stage.ready()
    while stage.workers:
        stage.workers.pop().stop()
    stage.start_worker(environment={"HOLDFAST_MAX_BODIES": "4"})
    waiting = [stage.runs.trigger("parked-finally") for _ in range(9)]
    for run_id in waiting:
        stage.runs.until(run_id, "WAITING")
    assert stage.runs.completed(stage.runs.trigger("steady"))
    for run_id in waiting:
        assert stage.runs.completed(run_id).output == "done"
        counts = stage.counts(run_id)
        assert counts["finally"] == 1
        assert stage.runs.get(run_id).recoveries == 0
    assert sum(stage.counts(run_id)["enter"] for run_id in waiting) > len(waiting)
    stage.workers.pop().stop()


def test_finally_of_a_parked_body_does_not_run_when_its_run_is_canceled(stage: Stage) -> None:
    """A WAITING run ends at once; its parked body is never stepped again."""
    stage.ready()
    run_id = stage.runs.trigger("parked-finally")
    stage.runs.until(run_id, "WAITING")
    assert stage.runs.cancel(run_id).status == "CANCELED"
    stage.runs.completed(stage.runs.trigger("steady"))
    assert stage.workers[0].stop() == 0
    assert stage.counts(run_id) == {"enter": 1}


def test_cleanup_runs_at_a_real_cancellation(stage: Stage) -> None:
    """The next durable call raises, and the body ends as bodies do."""
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("cancelled-cleanup", None, run_id)
    stage.gates.reached(run_id, "started")
    assert stage.runs.cancel(run_id).status == "CANCELING"
    stage.gates.open(run_id, "started")
    assert stage.runs.end(run_id).status == "CANCELED"
    assert stage.counts(run_id) == {"enter": 1, "finally": 1}


def test_keyed_children_are_made_once(stage: Stage) -> None:
    """A retry and a recovery of the parent join the same children."""
    stage.ready()
    run_id = stage.new_run("keyed")
    stage.runs.trigger("keyed-children", None, run_id)
    stage.gates.reached(run_id, "keyed")
    stage.workers[0].kill()
    stage.gates.open(run_id, "keyed")
    stage.ready()
    run = stage.runs.completed(run_id)
    assert (run.attempt, run.recoveries) == (2, 1)
    assert len(run.child_run_ids) == 3
    assert stage.counts(run_id) == {"enter": 3, "child 0": 1, "child 1": 1, "child 2": 1}


@pytest.mark.parametrize("task", ["journey", "blocking"])
def test_parent_and_child_share_one_slot(stage: Stage, task: str) -> None:
    """The parent gives its slot up while it waits, whether it is `async def` or `def`."""
    stage.ready()
    stage.workers.pop().kill()
    stage.start_worker(slots=1)
    run = stage.runs.completed(stage.runs.trigger(task, {} if task == "journey" else 21))
    assert run.output == 42
    assert_undisturbed(run)
    assert stage.counts(run.id)["enter"] == 1


def test_a_body_that_does_something_else_too_stays_executing(stage: Stage) -> None:
    """`gather` of a durable wait and plain work keeps its slot until the plain work is done."""
    stage.ready()
    run_id = stage.new_run("plain work")
    stage.runs.trigger("wait-and-work", None, run_id)
    stage.gates.reached(run_id, "plain work")
    wait_until(lambda: any(one.kind == "WAIT" for one in stage.runs.get(run_id).checkpoints), "the wait is recorded")
    assert stage.runs.get(run_id).status == "EXECUTING"
    stage.gates.open(run_id, "plain work")
    stage.runs.until(run_id, "WAITING", "COMPLETED")
    assert_undisturbed(stage.runs.completed(run_id))
    assert stage.counts(run_id)["enter"] == 1


def test_a_blocking_body_survives_a_crash(stage: Stage) -> None:
    stage.ready()
    run_id = stage.new_run("started")
    stage.runs.trigger("blocking", 4, run_id)
    stage.gates.reached(run_id, "started")
    stage.workers[0].kill()
    stage.gates.open(run_id, "started")
    stage.ready()
    run = stage.runs.completed(run_id)
    assert (run.output, run.attempt, run.recoveries) == (8, 1, 1)
    assert stage.counts(run_id) == {"enter": 2, "enter child": 1}


def test_await_many_results_over_a_restart(stage: Stage) -> None:
    """Handles awaited by an application get their results though the scheduler was killed meanwhile."""
    from holdfast import Client, tasks

    stage.ready()

    async def main() -> list[object]:
        async with Client(stage.deployment.address) as client:
            with client.use():
                handles = [await tasks.trigger("many", 3) for _ in range(5)]
                awaited = [asyncio.ensure_future(handle.result(timeout=60)) for handle in handles]
                await asyncio.to_thread(stage.restart_scheduler)
                return list(await asyncio.gather(*awaited))

    assert json.dumps(asyncio.run(main())) == json.dumps([6] * 5)
