"""What a client can do, as scenarios: each is played through the Python SDK and through bare generated stubs, on both
databases. A scenario gets a driver and a name of its own for keys, tags and queues.

A FORM is a way to ask for runs. Two are of outside callers (`single`, `batch`), four of a body, where the task `asks`
does it: `trigger`, `trigger_and_wait`, `batch_trigger`, `batch_trigger_and_wait`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

import pytest

from harness.drivers import Driver, Refused, SeenRun
from harness.scenario_tasks import Ask, Script
from harness.waiting import eventually

Scenario = Callable[[Driver, str], Awaitable[None]]

OUTSIDE = ("single", "batch")
INSIDE = ("trigger", "trigger_and_wait", "batch_trigger", "batch_trigger_and_wait")
FORMS = OUTSIDE + INSIDE
HOUR = 3600.0

SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Have it played."""
    SCENARIOS.append(function)
    return function


async def ask(driver: Driver, form: str, *asks: Ask, **script: Any) -> list[dict[str, Any]]:
    """Ask for runs in this form; what the one who asked saw of each."""
    if form == "single":
        return [await driver.trigger(one) for one in asks]
    if form == "batch":
        return await driver.batch(asks, script.get("key"))
    handle = await driver.trigger(Ask(task="asks", payload=Script(form=form, asks=list(asks), **script).model_dump()))
    run = await driver.end(handle["run_id"])
    assert run.status == "COMPLETED", run
    found: list[dict[str, Any]] = run.output
    return found


async def each_ended(driver: Driver, found: list[dict[str, Any]]) -> list[SeenRun]:
    """The runs of these outcomes, when they have ended."""
    return [await driver.end(one["run_id"]) for one in found]


# --- idempotency --------------------------------------------------------------------------------------------------


@scenario
async def a_key_returns_the_run_in_every_form(driver: Driver, name: str) -> None:
    for form in FORMS:
        one = Ask(task="echo", payload=form, key=f"{name} {form}")
        [first] = await ask(driver, form, one)
        assert (first["is_cached"], first["payload_differs"]) == (False, False), form
        await driver.end(first["run_id"])
        for other_form in FORMS:
            [again] = await ask(driver, other_form, one)
            seen = (again["run_id"], again["is_cached"], again["payload_differs"])
            assert seen == (first["run_id"], True, False), (form, other_form)
            if other_form.endswith("and_wait"):
                assert (again["status"], again["output"]) == ("COMPLETED", form)


@scenario
async def a_key_with_another_payload_says_so_in_every_form(driver: Driver, name: str) -> None:
    [first] = await ask(driver, "single", Ask(task="echo", payload="first", key=name))
    for form in FORMS:
        [again] = await ask(driver, form, Ask(task="echo", payload=f"other of {form}", key=name))
        assert (again["run_id"], again["is_cached"], again["payload_differs"]) == (first["run_id"], True, True), form
        if form.endswith("and_wait"):
            assert again["output"] == "first"


@scenario
async def duplicates_of_a_key_are_one_run_in_every_form(driver: Driver, name: str) -> None:
    for form in FORMS:
        twice = [Ask(task="echo", payload=1, key=f"{name} {form}")] * 2
        first, second, other = await ask(driver, form, *twice, Ask(task="echo", payload=1, key=f"{name} {form} other"))
        assert first["run_id"] == second["run_id"] != other["run_id"], form
        # The same call twice in one attempt joins its own checkpoint: it is no hit.
        assert [first["is_cached"], second["is_cached"]] == [False, form not in ("trigger", "trigger_and_wait")], form


@scenario
async def a_failed_run_frees_its_key_and_a_completed_or_canceled_one_holds_it(driver: Driver, name: str) -> None:
    for form in FORMS:
        failing = Ask(task="fails", key=f"{name} {form}")
        [first] = await ask(driver, form, failing)
        assert (await driver.end(first["run_id"])).status == "FAILED"
        [second] = await ask(driver, form, failing)
        assert second["run_id"] != first["run_id"], form
        assert not second["is_cached"]
        await driver.end(second["run_id"])
    held = Ask(task="waits", key=f"{name} canceled")
    [first] = await ask(driver, "single", held)
    await driver.cancel(first["run_id"])
    assert (await driver.end(first["run_id"])).status == "CANCELED"
    for form in FORMS:
        [again] = await ask(driver, form, held)
        assert (again["run_id"], again["is_cached"]) == (first["run_id"], True), form


@scenario
async def a_key_expires_and_is_reset(driver: Driver, name: str) -> None:
    for form in FORMS:
        short = Ask(task="echo", key=f"{name} {form}", options={"idempotency_key_ttl": 0.2})
        [first] = await ask(driver, form, short)

        async def another(short: Ask = short, form: str = form, first: dict[str, Any] = first) -> bool:
            [found] = await ask(driver, form, short)
            return bool(found["run_id"] != first["run_id"] and not found["is_cached"])

        await eventually(another, f"the key of {form} has expired")
    [first] = await ask(driver, "single", Ask(task="echo", key=name))
    assert await driver.reset("echo", name)
    assert not await driver.reset("echo", name)
    [second] = await ask(driver, "single", Ask(task="echo", key=name))
    assert (second["is_cached"], second["run_id"] == first["run_id"]) == (False, False)


@scenario
async def the_key_of_a_batch_returns_the_batch(driver: Driver, name: str) -> None:
    for form in ("batch", "batch_trigger", "batch_trigger_and_wait"):
        items = [Ask(task="echo", payload=1), Ask(task="twice", payload=2)]
        first = await ask(driver, form, *items, key=f"{name} {form}")
        again = await ask(driver, form, *items, key=f"{name} {form}")
        fewer = await ask(driver, form, items[1], key=f"{name} {form}")
        assert [(one["batch_is_cached"], one["batch_differs"]) for one in first] == [(False, False)] * 2, form
        assert [(one["batch_is_cached"], one["batch_differs"]) for one in again] == [(True, False)] * 2, form
        assert [(one["batch_is_cached"], one["batch_differs"]) for one in fewer] == [(True, True)] * 2, form
        ids = [[(one["batch_id"], one["run_id"]) for one in found] for found in (first, again, fewer)]
        assert ids[0] == ids[1] == ids[2], form
        assert all(one["is_cached"] for one in [*again, *fewer]), form
        await each_ended(driver, first)


@scenario
async def children_are_not_made_twice_by_a_retry(driver: Driver, name: str) -> None:
    [parent] = await ask(driver, "single", Ask(task="fails-at-first", payload=2))
    run = await driver.end(parent["run_id"])
    assert (run.status, run.attempt, run.attempts) == ("COMPLETED", 3, ["FAILED", "FAILED", "SUCCEEDED"])
    # One by its place, one by its key of the run, and one per attempt.
    assert len(run.children) == 2 + 3


@scenario
async def waiting_for_oneself_through_a_key_is_refused(driver: Driver, name: str) -> None:
    for form in ("trigger_and_wait", "batch_trigger_and_wait"):
        inner = Script(form=form, asks=[Ask(task="asks", key=f"{name} {form}")]).model_dump()
        [found] = await ask(driver, "single", Ask(task="asks", payload=inner, key=f"{name} {form}"))
        run = await driver.end(found["run_id"])
        assert [one["error"] for one in run.output] == ["WOULD_DEADLOCK"], form


# --- triggering ---------------------------------------------------------------------------------------------------


@scenario
async def options_travel_with_each_item_in_every_form(driver: Driver, name: str) -> None:
    for form in FORMS:
        asks = [
            Ask(
                task="shows",
                payload=place,
                key=f"{name} {form} {place}",
                options={
                    "queue": f"{name}-{place}",
                    "concurrency_key": f"lane-{place}",
                    "tags": [name, f"place-{place}"],
                    "metadata": {"given": place},
                    "max_attempts": 5 + place,
                    "priority": 1.5 * place,
                    "max_duration": 60.0,
                    "timeout": 600.0,
                    "ttl": 600.0,
                },
            )
            for place in range(3)
        ]
        found = await ask(driver, form, *asks)
        for place, run in enumerate(await each_ended(driver, found)):
            assert (run.queue, run.concurrency_key) == (f"{name}-{place}", f"lane-{place}"), form
            assert run.tags == sorted([name, f"place-{place}"])
            assert run.metadata == {"given": place, "seen": True}
            assert (run.max_attempts, run.priority) == (5 + place, 1.5 * place)
            assert run.output == {
                "task": "shows",
                "run": run.id,
                "attempt": 1,
                "queue": run.queue,
                "concurrency_key": run.concurrency_key,
                "batch": run.batch or None,
                "parent": run.parent or None,
                "root": run.root,
                "is_replay": False,
                "tags": run.tags,
                "key": [f"{name} {form} {place}"],
                "has_version": True,
                "metadata": place,
            }
            assert bool(run.batch) == form.startswith("batch")
            assert bool(run.parent) == (form in INSIDE)
            assert (run.root == run.id) == (form in OUTSIDE)


@scenario
async def mixed_batches_keep_the_order_and_a_bad_item_its_place(driver: Driver, name: str) -> None:
    asks = [
        Ask(task="echo", payload="a"),
        Ask(task="nobody-has-this"),
        Ask(task="twice", payload=21),
        Ask(task="fails", payload="b"),
        Ask(task="echo", payload={"c": [1, None]}),
    ]
    for form in FORMS:
        found = await ask(driver, form, *asks)
        assert [one.get("error") for one in found] == [None, "TASK_NOT_FOUND", None, None, None], form
        good = [one for one in found if "error" not in one]
        runs = await each_ended(driver, good)
        assert [(run.status, run.output) for run in runs] == [
            ("COMPLETED", "a"),
            ("COMPLETED", 42),
            ("FAILED", None),
            ("COMPLETED", {"c": [1, None]}),
        ], form
        if form.endswith("and_wait"):
            assert [(one["status"], one["output"]) for one in good] == [(run.status, run.output) for run in runs]
        if form.startswith("batch"):
            [batch] = {run.batch for run in runs}
            listed = await driver.list(batch=batch)
            assert sorted(listed[0]) == sorted(run.id for run in runs)


@scenario
async def a_thousand_items_are_one_batch(driver: Driver, name: str) -> None:
    found = await ask(driver, "batch", *(Ask(task="echo", payload=number) for number in range(1000)))
    assert len({one["run_id"] for one in found}) == 1000
    assert (await driver.end(found[-1]["run_id"])).output == 999
    found = await ask(driver, "batch_trigger_and_wait", *(Ask(task="echo", payload=number) for number in range(1000)))
    assert [one["output"] for one in found] == list(range(1000))


@scenario
async def max_attempts_overrides_the_tasks_policy_in_every_form(driver: Driver, name: str) -> None:
    for form in FORMS:
        found = await ask(driver, form, *(Ask(task="fails", options={"max_attempts": number}) for number in (1, 3)))
        runs = await each_ended(driver, found)
        assert [(run.status, run.attempt, run.error) for run in runs] == [
            ("FAILED", 1, "ValueError"),
            ("FAILED", 3, "ValueError"),
        ], form


@scenario
async def a_delayed_run_is_rescheduled(driver: Driver, name: str) -> None:
    for form in ("single", "batch", "trigger", "batch_trigger"):
        [found] = await ask(driver, form, Ask(task="echo", payload=form, options={"delay": HOUR}))
        run = await driver.get(found["run_id"])
        assert (run.status, run.reason) == ("DELAYED", "SCHEDULED"), form
        await driver.reschedule(run.id, 0.0)
        assert (await driver.end(run.id)).output == form
        with pytest.raises(Refused, match="WRONG_STATUS"):
            await driver.reschedule(run.id, 1.0)
    for form in ("trigger_and_wait", "batch_trigger_and_wait"):
        [found] = await ask(driver, form, Ask(task="echo", payload=form, options={"delay": 0.05}))
        assert found["output"] == form


@scenario
async def a_run_that_never_starts_expires_in_every_form(driver: Driver, name: str) -> None:
    await driver.override_queue(name, 1)
    await driver.pause_queue(name)
    for form in FORMS:
        [found] = await ask(driver, form, Ask(task="echo", options={"queue": name, "ttl": 0.1}))
        run = await driver.end(found["run_id"])
        assert (run.status, run.attempt) == ("EXPIRED", 0), form
        if form.endswith("and_wait"):
            assert found["status"] == "EXPIRED"


@scenario
async def priority_is_seconds_ahead(driver: Driver, name: str) -> None:
    await driver.override_queue(name, 1)
    await driver.pause_queue(name)
    priorities = (0.0, 1000.0, -1000.0, 2000.0)
    found = await ask(
        driver,
        "single",
        *(Ask(task="echo", payload=one, options={"queue": name, "priority": one}) for one in priorities),
    )
    await driver.resume_queue(name)
    runs = await each_ended(driver, found)
    by_start = sorted(runs, key=lambda run: run.started_at)
    assert [run.output for run in by_start] == sorted(priorities, reverse=True)


@scenario
async def children_end_with_their_parent_or_are_left(driver: Driver, name: str) -> None:
    for form in INSIDE:
        waits = form.endswith("and_wait")
        asks = [
            Ask(task="waits", options=options)
            for options in ({}, {"on_parent_end": "cancel"}, {"on_parent_end": "detach"})
        ]
        # A single call that waits never comes to the next one: a parent for each.
        for group in [[one] for one in asks] if form == "trigger_and_wait" else [asks]:
            script = Script(form=form, asks=group, then="wait").model_dump()
            [parent] = await ask(driver, "single", Ask(task="asks", payload=script))
            run = await _waiting_with_children(driver, parent["run_id"], len(group))
            await driver.cancel(run.id)
            assert (await driver.end(run.id)).status == "CANCELED"
            for child_id in run.children:
                child = await driver.get(child_id)
                place = _place(child, run, group)
                ends = group[place].options.get("on_parent_end", "cancel" if waits else "detach") == "cancel"
                if ends:
                    assert (await driver.end(child_id)).status == "CANCELED", (form, place)
                else:
                    assert not child.is_final, (form, place)
                    await driver.cancel(child_id)


@scenario
async def children_end_with_a_parent_that_fails_if_they_shall(driver: Driver, name: str) -> None:
    for form in ("trigger", "batch_trigger"):
        asks = [Ask(task="waits", options={"on_parent_end": what}) for what in ("cancel", "detach")]
        script = Script(form=form, asks=asks, then="fail").model_dump()
        [parent] = await ask(driver, "single", Ask(task="asks", payload=script))
        run = await driver.end(parent["run_id"])
        assert run.status == "FAILED"
        assert len(run.children) == 2
        for child_id in run.children:
            child = await driver.get(child_id)
            if _place(child, run, asks) == 0:
                assert (await driver.end(child_id)).status == "CANCELED", form
            else:
                assert not child.is_final, form
                await driver.cancel(child_id)


async def _waiting_with_children(driver: Driver, run_id: str, count: int) -> SeenRun:
    async def waiting() -> SeenRun | None:
        run = await driver.get(run_id)
        return run if run.status == "WAITING" and len(run.children) == count else None

    found = await eventually(waiting, f"{run_id} waits with {count} children")
    assert found is not None
    return found


def _place(child: SeenRun, parent: SeenRun, asks: list[Ask]) -> int:
    """Children are listed in the order in which they were made: their ids rise with time."""
    assert len(parent.children) == len(asks)
    return sorted(parent.children).index(child.id)


@scenario
async def triggers_are_debounced_in_every_form(driver: Driver, name: str) -> None:
    for mode, kept in (("trailing", "last"), ("leading", "first")):
        for form in ("single", "batch", "trigger", "batch_trigger"):
            debounce = {"key": f"{name} {mode} {form}", "delay": HOUR, "mode": mode}
            asks = [Ask(task="echo", payload=payload, debounce=debounce) for payload in ("first", "second", "last")]
            found = await ask(driver, form, *asks)
            assert len({one["run_id"] for one in found}) == 1, (mode, form)
            run = await driver.get(found[0]["run_id"])
            assert (run.status, run.reason) == ("DELAYED", "DEBOUNCED"), (mode, form)
            await driver.reschedule(run.id, 0.0)
            assert (await driver.end(run.id)).output == kept, (mode, form)


@scenario
async def a_debounced_run_starts_after_its_longest_delay(driver: Driver, name: str) -> None:
    for form in FORMS:
        debounce = {"key": f"{name} {form}", "delay": HOUR, "max_delay": 0.05}
        [found] = await ask(driver, form, Ask(task="echo", payload=form, debounce=debounce))
        assert (await driver.end(found["run_id"])).output == form
        if form.endswith("and_wait"):
            assert found["output"] == form


@scenario
async def time_limits_end_a_run_in_every_form(driver: Driver, name: str) -> None:
    for form in FORMS:
        [found] = await ask(driver, form, Ask(task="waits", options={"timeout": 0.1}))
        assert (await driver.end(found["run_id"])).status == "TIMED_OUT", form
        if form.endswith("and_wait"):
            assert found["status"] == "TIMED_OUT"


@scenario
async def a_wait_for_children_has_a_limit_of_its_own(driver: Driver, name: str) -> None:
    for form in ("trigger_and_wait", "batch_trigger_and_wait"):
        key = f"{name} {form}"
        [found] = await ask(
            driver, form, Ask(task="waits", key=key, options={"on_parent_end": "detach"}), wait_timeout=0.1
        )
        assert found["status"] == "TIMED_OUT", form
        [child] = await ask(driver, "single", Ask(task="waits", key=key))
        assert child["is_cached"]
        assert not (await driver.get(child["run_id"])).is_final
        await driver.cancel(child["run_id"])


# --- tasks ------------------------------------------------------------------------------------------------------


@scenario
async def hooks_run_around_the_body_and_never_change_the_outcome(driver: Driver, name: str) -> None:
    [good, bad, skipped] = await ask(
        driver, "single", *(Ask(task="hooked", payload=one) for one in (None, "no", "skip"))
    )
    run = await driver.end(good["run_id"])
    assert (run.status, run.output, run.tags) == ("COMPLETED", "local", ["added"])
    assert await lines(driver, run) == [
        "middleware begins",
        "on_start_attempt",
        "on_wait",
        "on_resume",
        "middleware ends {'ok': True}",
        "on_success {'output': 'local'}",
        "on_complete {'ok': True}",
    ]
    run = await driver.end(bad["run_id"])
    assert (run.status, run.attempt, run.error) == ("FAILED", 2, "ValueError")
    attempt = ["middleware begins", "on_start_attempt", "middleware ends {'ok': False}", "catch_error {'error': 'no'}"]
    last = ["on_failure {'error': 'no'}", "on_complete {'ok': False}"]
    assert await lines(driver, run) == [*attempt, *attempt, *last]
    run = await driver.end(skipped["run_id"])
    assert (run.status, run.attempt) == ("FAILED", 1)


async def lines(driver: Driver, run: SeenRun) -> list[str]:
    """The lines that hooks logged; what Holdfast says of hooks that raised is left out."""
    found = []
    for level, message, fields in await driver.logs(run.id):
        shown = {name: value for name, value in fields.items() if name != "attempt"}
        if level == "info":
            found.append(f"{message} {shown}" if shown else message)
    return found


@scenario
async def a_payload_that_does_not_fit_is_not_tried_again(driver: Driver, name: str) -> None:
    for form in FORMS:
        [found] = await ask(driver, form, Ask(task="twice", payload="no number"))
        run = await driver.end(found["run_id"])
        assert (run.status, run.attempt, run.max_attempts) == ("FAILED", 1, 3), form
        if form.endswith("and_wait"):
            assert found["status"] == "FAILED"


@scenario
async def calls_are_tried_again_inside_the_attempt_durably_when_long(driver: Driver, name: str) -> None:
    [short, long] = await ask(driver, "single", *(Ask(task="calls", payload=pause) for pause in (0.01, 5.0)))
    run = await driver.end(short["run_id"])
    assert (run.output, run.attempt, run.checkpoints) == ([2, 200, 1, 2], 1, [])
    await _is(driver, long["run_id"], "WAITING")
    run = await driver.end(long["run_id"])
    assert (run.output, run.attempt) == ([2, 1, 2], 1)
    assert ("WAIT", "SUCCEEDED") in run.checkpoints


# --- waits and tokens ---------------------------------------------------------------------------------------------


@scenario
async def time_ends_waits(driver: Driver, name: str) -> None:
    [found] = await ask(driver, "single", Ask(task="short-waits"))
    run = await driver.end(found["run_id"])
    assert run.output == ["InvalidArgumentError"]
    waits = [status for kind, status in run.checkpoints if kind == "WAIT"]
    assert len(waits) >= 4
    assert set(waits) <= {"SUCCEEDED", "ABANDONED"}


@scenario
async def several_runs_wait_for_one_token_and_the_first_completion_wins(driver: Driver, name: str) -> None:
    token = await driver.create_token(HOUR, tags=[name])
    assert (token.status, token.tags, token.is_cached) == ("PENDING", [name], False)
    waiting = await ask(driver, "single", *[Ask(task="awaits-token", payload=token.id)] * 3)
    for one in waiting:
        await _is(driver, one["run_id"], "WAITING")
    assert await driver.complete_token(token.id, {"n": 1})
    assert not await driver.complete_token(token.id, {"n": 2})
    assert not await driver.fail_token(token.id, "too late")
    late = await ask(driver, "single", Ask(task="awaits-token", payload=token.id))
    for run in await each_ended(driver, waiting + late):
        assert run.output == {"ok": True, "output": {"n": 1}, "error": None}
    token = await driver.get_token(token.id)
    assert (token.status, token.data) == ("COMPLETED", {"n": 1})


@scenario
async def a_token_fails_or_times_out(driver: Driver, name: str) -> None:
    failing, short = await driver.create_token(None), await driver.create_token(0.2)
    waiting = await ask(driver, "single", *(Ask(task="awaits-token", payload=one.id) for one in (failing, short)))
    await _is(driver, waiting[0]["run_id"], "WAITING")
    assert await driver.fail_token(failing.id, "no")
    assert not await driver.complete_token(failing.id, 1)
    runs = await each_ended(driver, waiting)
    assert [(run.output["ok"], run.output["output"]) for run in runs] == [(False, None)] * 2
    assert runs[0].output["error"] == "TokenFailed"
    assert not await driver.complete_token(short.id, 1)
    tokens = [await driver.get_token(one.id) for one in (failing, short)]
    assert (tokens[0].status, tokens[0].error) == ("FAILED", "no")
    assert tokens[1].status == "TIMED_OUT"


@scenario
async def a_tokens_key_returns_the_token_inside_and_outside(driver: Driver, name: str) -> None:
    first = await driver.create_token(HOUR, key=name)
    again = await driver.create_token(HOUR, key=name)
    assert (again.id, again.is_cached) == (first.id, True)
    [run] = await each_ended(driver, await ask(driver, "single", Ask(task="creates-token", payload=name)))
    (other, other_cached), (keyed, keyed_cached) = run.output
    assert (keyed, keyed_cached) == (first.id, True)
    assert (other == first.id, other_cached) == (False, False)


@scenario
async def tokens_are_listed(driver: Driver, name: str) -> None:
    tokens = [await driver.create_token(HOUR, tags=[name, f"{name} {number}"]) for number in range(5)]
    assert await driver.complete_token(tokens[1].id, None)
    newest_first = [token.id for token in reversed(tokens)]
    assert await driver.list_tokens(tag=name) == [newest_first]
    assert [len(page) for page in await driver.list_tokens(tag=name, limit=2)] == [2, 2, 1]
    assert list(chain(*await driver.list_tokens(tag=name, limit=2))) == newest_first
    assert await driver.list_tokens(tag=name, status="COMPLETED") == [[tokens[1].id]]
    assert await driver.list_tokens(tag=f"{name} 3") == [[tokens[3].id]]
    with pytest.raises(Refused, match="TOKEN_NOT_FOUND"):
        await driver.get_token("token_" + "0" * 26)


async def _is(driver: Driver, run_id: str, status: str) -> SeenRun:
    async def reached() -> SeenRun | None:
        run = await driver.get(run_id)
        assert run.status == status or not run.is_final, run
        return run if run.status == status else None

    found = await eventually(reached, f"{run_id} is {status}")
    assert found is not None
    return found


# --- runs ---------------------------------------------------------------------------------------------------------


@scenario
async def a_run_is_retrieved_with_all_that_it_did(driver: Driver, name: str) -> None:
    [found] = await ask(driver, "single", Ask(task="has-all", payload={"p": 1}))
    run = await driver.end(found["run_id"])
    assert (run.status, run.payload, run.output) == ("COMPLETED", {"p": 1}, "done")
    kinds = ["STEP", "WAIT", "TRIGGER", "CHILD", "BATCH_TRIGGER", "BATCH", "TOKEN", "TOKEN_WAIT"]
    assert run.checkpoints == [(kind, "SUCCEEDED") for kind in kinds]
    assert run.attempts == ["SUCCEEDED"]
    children = [await driver.end(child) for child in run.children]
    assert sorted(child.output for child in children) == [1, 2, 3, 4, 5]
    assert {child.parent for child in children} == {run.id}
    with pytest.raises(Refused, match="RUN_NOT_FOUND"):
        await driver.get("run_" + "0" * 26)


@scenario
async def a_run_is_canceled_and_watched(driver: Driver, name: str) -> None:
    [found] = await ask(driver, "single", Ask(task="waits"))
    statuses = []
    async for status in driver.watch(found["run_id"]):
        if not statuses or statuses[-1] != status:
            statuses.append(status)
        if status == "WAITING":
            await driver.cancel(found["run_id"])
    assert statuses[-2:] == ["WAITING", "CANCELED"]
    await driver.cancel(found["run_id"])  # again: no harm
    assert (await driver.get(found["run_id"])).status == "CANCELED"


@scenario
async def a_run_is_replayed_with_its_payload_or_another(driver: Driver, name: str) -> None:
    options = {"tags": [name], "queue": name, "max_attempts": 7, "metadata": {"given": 1}}
    [found] = await ask(driver, "single", Ask(task="shows", payload="old", key=name, options=options))
    first = await driver.end(found["run_id"])
    replayed = [await driver.end(await driver.replay(first.id)), await driver.end(await driver.replay(first.id, "new"))]
    assert [run.payload for run in replayed] == ["old", "new"]
    for run in replayed:
        assert run.id != first.id
        assert (run.is_replay, run.output["is_replay"]) == (True, True)
        assert (run.tags, run.queue, run.max_attempts) == (first.tags, first.queue, 7)


@scenario
async def runs_are_listed_in_stable_pages(driver: Driver, name: str) -> None:
    asks = [Ask(task="echo", payload=number, options={"tags": [name]}) for number in range(5)]
    found = [one["run_id"] for one in await ask(driver, "single", *asks)]
    [failed] = await ask(driver, "single", Ask(task="fails", options={"tags": [name]}))
    for run_id in [*found, failed["run_id"]]:
        await driver.end(run_id)
    pages = await driver.list(tag=name, task="echo", limit=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert list(chain(*pages)) == found[::-1]
    assert await driver.list(tag=name, status="FAILED") == [[failed["run_id"]]]


@scenario
async def many_runs_are_canceled_and_replayed_at_once(driver: Driver, name: str) -> None:
    waiting = [Ask(task="waits", options={"tags": [name]})] * 5
    found = [one["run_id"] for one in await ask(driver, "batch", *waiting)]
    [done] = await ask(driver, "single", Ask(task="echo", payload=1, options={"tags": [name]}))
    await driver.end(done["run_id"])
    acted, _ = await driver.bulk("cancel", tag=name)
    assert acted == 5
    assert [(await driver.end(run_id)).status for run_id in found] == ["CANCELED"] * 5
    assert (await driver.bulk("replay", tag=name, task="echo"))[0] == 1
    [[newest, oldest]] = await driver.list(tag=name, task="echo")
    assert oldest == done["run_id"]
    run = await driver.end(newest)
    assert (run.is_replay, run.output) == (True, 1)


@scenario
async def a_run_is_explained(driver: Driver, name: str) -> None:
    token = await driver.create_token(HOUR)
    [found] = await ask(driver, "single", Ask(task="awaits-token", payload=token.id))
    run = await _is(driver, found["run_id"], "WAITING")
    sentence, spent = await driver.explain(run.id)
    assert token.id in sentence
    assert spent["backing_off"] == spent["delayed"] == 0
    assert await driver.complete_token(token.id, None)
    await driver.end(run.id)
    _, spent = await driver.explain(run.id)
    assert spent["waiting"] > 0
    assert spent["executing"] > 0


@scenario
async def the_log_travels_with_the_run(driver: Driver, name: str) -> None:
    [found] = await ask(driver, "single", Ask(task="shows", payload=name))
    await driver.end(found["run_id"])
    assert await driver.logs(found["run_id"]) == [("info", "showing", {"payload": name})]


# --- queues -------------------------------------------------------------------------------------------------------


@scenario
async def a_queue_is_overridden_paused_and_resumed(driver: Driver, name: str) -> None:
    queue = await driver.override_queue(name, 3)
    assert (queue.name, queue.limit, queue.overridden, queue.paused) == (name, 3, True, False)
    assert (await driver.pause_queue(name)).paused
    found = await ask(driver, "single", *[Ask(task="echo", payload=1, options={"queue": name})] * 2)
    assert (await driver.get_queue(name)).queued == 2
    assert name in await driver.list_queues()
    run = await driver.get(found[0]["run_id"])
    assert (run.status, run.reason) == ("QUEUED", "PAUSED")
    assert not (await driver.resume_queue(name)).paused
    assert [run.status for run in await each_ended(driver, found)] == ["COMPLETED"] * 2
    assert not (await driver.clear_override(name)).overridden
    with pytest.raises(Refused, match="QUEUE_NOT_FOUND"):
        await driver.get_queue(f"not-{name}")
