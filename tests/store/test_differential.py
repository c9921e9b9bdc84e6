"""The same random commands through SQLite and PostgreSQL: after each commit every row, outcome and delivery is the
same, and no invariant is broken."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from harness.store_driver import (
    SECOND,
    Driver,
    Worker,
    batch,
    broken_invariants,
    child,
    error,
    key,
    new,
    step,
    token,
    token_wait,
    wait,
)
from holdfast_scheduler import ids, unit_of_work
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.model import NewRun, Record, Report

STEPS = 80
TASKS = ("a", "b", "nobody")

Ask = Callable[[Driver], m.Command]
"""Makes a command anew for each side: the engine changes the objects that it is given."""


class Chance:
    """Random commands that fit what the workers hold, and now and then do not."""

    def __init__(self, seed: int, db: Driver) -> None:
        self.random = random.Random(seed)
        self.db = db  # read only: the other side must look the same
        self.tokens: list[bytes] = []
        self.runs: list[bytes] = []
        self.batches: list[bytes] = []
        self.sessions: list[bytes] = []

    def id(self) -> bytes:
        """An id that the seed determines."""
        return self.random.randbytes(16)

    def item(self, *, inside: bool) -> Callable[[], NewRun]:
        """A run to trigger."""
        r = self.random
        run_id = r.choice(self.runs) if self.runs and not inside and r.random() < 0.05 else self.id()
        options: dict[str, Any] = {"task": r.choice(TASKS[:2] * 6 + TASKS), "id": run_id}
        self.runs.append(run_id)
        if r.random() < 0.1:
            options["delay_us"] = r.randrange(10) * SECOND
        if r.random() < 0.1:
            options["ttl_us"] = r.randrange(1, 10) * SECOND
        if r.random() < 0.1:
            options["timeout_us"] = r.randrange(1, 60) * SECOND
        if r.random() < 0.1:
            options["tags"] = ["x", "y"]
        if inside and r.random() < 0.3:
            options["on_parent_end"] = r.choice((m.ON_PARENT_END_CANCEL, m.ON_PARENT_END_DETACH))
        named = r.random() < 0.4
        text, ttl = r.choice("klm"), r.choice((5, 600))
        scope = r.choice((0, m.SCOPE_RUN, m.SCOPE_GLOBAL, m.SCOPE_ATTEMPT)) if inside else 0
        payload = r.choice((b"{}", b"1"))
        return lambda: new(payload=payload, **options, **({"key": key(text, scope=scope, ttl=ttl)} if named else {}))

    def record(self, seq: int) -> Callable[[], Record]:
        """A durable call."""
        r = self.random
        kind = r.randrange(9)
        timeout = {"timeout_us": r.randrange(1, 20) * SECOND} if r.random() < 0.3 else {}
        if kind <= 1:
            failed, permanent = r.random() < 0.3, r.random() < 0.5
            return lambda: step(seq, None, error=error(), permanent=permanent) if failed else step(seq)
        if kind <= 3:
            seconds = r.choice((0, 1, 3, 30))
            return lambda: wait(seq, seconds)
        if kind <= 5:
            item, waits = self.item(inside=True), r.random() < 0.7
            return lambda: child(seq, item(), wait=waits, **timeout)
        if kind == 6:
            items = [self.item(inside=True) for _ in range(r.randrange(4))]
            subject, waits, named = self.id(), r.random() < 0.7, r.random() < 0.3
            return lambda: batch(
                seq, [one() for one in items], wait=waits, subject=subject, **({"key": key("b")} if named else {})
            )
        if kind == 7:
            token_id, named = self.id(), r.random() < 0.3
            self.tokens.append(token_id)
            return lambda: token(seq, token_id, **timeout, **({"key": key("tok")} if named else {}))
        token_id = r.choice(self.tokens) if self.tokens else self.id()
        return lambda: token_wait(seq, token_id, **timeout)

    def report(self, worker: Worker) -> Callable[[Worker], Report] | None:
        """A report about one of the bodies that a worker holds."""
        r = self.random
        if not worker.bodies:
            return None
        run_id = r.choice(sorted(worker.bodies))
        body = worker.bodies[run_id]
        if r.random() < 0.05:
            return lambda w: Report(run_id, body.fence - 1, 1, event=rules.COMPLETE, output=b"stale")
        if r.random() < 0.05 and body.number > 1:
            number = r.randrange(1, body.number)
            return lambda w: Report(run_id, body.fence, number, event=rules.COMPLETE, output=b"repeat")
        if body.parked:
            return (lambda w: w.report_of(run_id, rules.WAKE)) if r.random() < 0.2 else None
        records = [self.record(body.last_seq + 1 + at) for at in range(r.choice((0, 1, 1, 2)))]
        event = r.choice(("", rules.PARK, rules.PARK, rules.COMPLETE, rules.FAIL, rules.RELEASE, rules.LOSE))
        parts: dict[str, Any] = {}
        if event == rules.COMPLETE:
            parts["output"] = b"output"
        elif event in (rules.FAIL, rules.LOSE):
            kind = r.choice(("USER", "ABORTED"))
            parts["error"] = error("CRASHED" if event == rules.LOSE else kind)
            parts["retryable"] = kind == "USER" and event == rules.FAIL
        if r.random() < 0.2 and body.last_seq:
            parts["abandoned"] = [r.randrange(1, body.last_seq + 1)]
        if r.random() < 0.3:
            number, target, provisional = body.number + 1, r.randrange(4), r.random() < 0.5
            verb = r.choice((1, 2, 3, 4, 5))
            parts["metadata"] = [m.MetadataOp(target, verb, r.choice("kl"), b"1", "", number, provisional)]
        if r.random() < 0.1:
            parts["add_tags"] = ["late"]
            parts["logs"] = [b"line"]
        return lambda w: w.report_of(run_id, event, *(one() for one in records), **parts)

    def command(self) -> tuple[str, Ask] | None:
        """Something that is asked from outside or by the clock."""
        r, db = self.random, self.db
        ns, choice = db.namespace, r.randrange(10)
        if choice <= 3:
            items = [self.item(inside=False) for _ in range(r.randrange(1, 4))]
            return "trigger", lambda _: m.TriggerRuns(ns, [one() for one in items])
        if choice == 4:
            items = [self.item(inside=False) for _ in range(r.randrange(1, 4))]
            batch_id = r.choice(self.batches) if self.batches and r.random() < 0.2 else self.id()
            self.batches.append(batch_id)
            named = r.random() < 0.3
            return "batch", lambda _: m.TriggerBatch(
                ns, batch_id, [one() for one in items], key("batch") if named else None, True
            )
        if choice == 5 and self.runs:
            run_id = r.choice(self.runs)
            return "cancel", lambda _: m.CancelRun(ns, run_id)
        if choice == 6 and self.tokens:
            token_id, ok = r.choice(self.tokens), r.random() < 0.7
            return "settle token", lambda _: m.SettleToken(ns, token_id, b"data" if ok else b"", b"" if ok else error())
        if choice == 7 and self.runs:
            run_id = r.choice(self.runs)
            return "reschedule", lambda _: m.RescheduleRun(ns, run_id, 2 * SECOND, None)
        if choice == 8:
            return "reset key", lambda _: m.ResetKey(ns, "a", key("k"), b"", 0)
        if choice == 9:
            token_id, timed = self.id(), r.random() < 0.5
            self.tokens.append(token_id)
            return "create token", lambda _: m.CreateToken(ns, token_id, 5 * SECOND if timed else None, [], None)
        return None


def commit(sides: list[Driver], chance: Chance, asked: list[Ask], reported: dict[bytes, list[Any]]) -> list[Any]:
    """One commit on each side. Returns the outcomes of both."""
    outcomes = []
    for db in sides:
        commands = [one(db) for one in asked]
        made: list[tuple[Worker, list[Report]]] = []
        for session, reports in reported.items():
            worker = db.workers[session]
            made.append((worker, [one(worker) for one in reports]))
            worker.let_go(made[-1][1])
            commands.append(worker.frame(*made[-1][1]))
        outcomes.append(db.do(*commands))
        for worker, done in made:
            worker.take_up(done)
    return outcomes


def shown(value: Any) -> Any:
    """A value of the model as something that can be compared."""
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    names = getattr(value, "__dataclass_fields__", None)
    return value if names is None else {name: shown(getattr(value, name)) for name in names}


def delivered(db: Driver) -> Any:
    """What the workers of one side hold and were told last."""
    return {
        session: (
            shown(worker.deliveries[-1:]),
            worker.acknowledged,
            sorted((body.run_id, body.fence, body.parked, body.seen) for body in worker.bodies.values()),
        )
        for session, worker in db.workers.items()
    }


@pytest.mark.parametrize("round_", range(3))
def test_both_databases_do_the_same(
    round_: int, migrated_sqlite_url: str, migrated_postgres_url: str, replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("HOLDFAST_SEED", random.SystemRandom().randrange(1 << 32))) + round_
    print(f"HOLDFAST_SEED={seed - round_} (round {round_})")
    monkeypatch.setattr(unit_of_work.random, "random", lambda: 0.5)
    # PostgreSQL first: where it could not foresee a commit, SQLite does not trust its memory either. Else the turns of
    # lanes would differ, for a start that needs no look is no turn.
    sides: list[Driver] = [replica(migrated_postgres_url), replica(migrated_sqlite_url)]
    sides[1].like = sides[0]
    replica_id = bytes(16)
    for db in sides:
        db.loop._replica = replica_id
    monkeypatch.setattr(ids, "new_id", _no_id)
    chance = Chance(seed, sides[0])
    r = chance.random
    for number in range(STEPS):
        what = scene(sides, chance, r)
        where = f"step {number} ({what}), HOLDFAST_SEED={seed - round_}, round {round_}"
        left, right = (db.dump() for db in sides)
        for table in left:
            assert left[table] == right[table], f"{where}: {table}"
        assert delivered(sides[0]) == delivered(sides[1]), where
        assert not (wrong := broken_invariants(left)), f"{where}: {wrong}"


def _no_id() -> bytes:
    raise AssertionError("an id that is not the test's")


def scene(sides: list[Driver], chance: Chance, r: random.Random) -> str:
    """One step on both sides."""
    choice = r.randrange(20)
    workers = sides[0].workers
    if choice == 0 or not workers:
        session, slots, tasks = chance.id(), r.randrange(1, 4), r.choice((("a",), ("b",), ("a", "b")))
        for db in sides:
            db.worker(*tasks, slots=slots, session=session, max_recoveries=2)
        return "open a session"
    if choice == 1:
        session, lost = r.choice(sorted(workers)), r.random() < 0.5
        assert [db.end_session(db.workers[session], lost=lost) for db in sides] == [True, True]
        return "end a session"
    if choice == 2:
        session = r.choice(sorted(workers))
        held = {run_id: body.fence for run_id, body in workers[session].bodies.items() if r.random() < 0.8}
        if held and r.random() < 0.3:
            held[next(iter(held))] -= 1
        for db in sides:
            for run_id in set(db.workers[session].bodies) - set(held):
                del db.workers[session].bodies[run_id]
            db.workers[session].reconnect(dict(held))
        return "reconnect"
    if choice <= 6:
        seconds = r.choice((0.1, 1, 1, 3, 10))
        clock = sides[0].clock
        assert clock is not None
        clock.turn(seconds)
        for db in sides:
            db.due() if choice <= 5 else db.tick(expire=False)
        return f"{seconds} s pass"
    asked, reported, names = [], {}, []
    for _ in range(r.randrange(1, 5)):
        if r.random() < 0.4 and (command := chance.command()) is not None:
            names.append(command[0])
            asked.append(command[1])
        else:
            session = r.choice(sorted(workers))
            report = chance.report(workers[session])
            if report is not None and session not in reported:
                reported[session] = [report]
                names.append("report")
    if not names:
        return "nothing"
    left, right = commit(sides, chance, asked, reported)
    assert shown(left) == shown(right)
    return ", ".join(names)
