"""A completion at the very moment the run blocks is never lost: every order of commits, and two replicas at once."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from harness.races import race
from harness.store_driver import SECOND, Driver, Worker, error, token_wait
from holdfast_scheduler import ids
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules

ROUNDS, AT_ONCE = 6, 20
"""Races on one replica: rounds, each of so many tokens, each awaited by two runs; in every order of what happens. With
ten orders that is 2,400 races on each database."""
REPLICA_ROUNDS, REPLICA_AT_ONCE, SECONDS = (8, 25), 40, 10.0
"""Races of two replicas: 2,000; a busy machine leaves off after so many seconds, and 640 at the least."""

ORDERS = [
    "wait-park | settle",
    "settle | wait-park",
    "wait | park | settle",
    "wait | settle | park",  # the park was made before the worker heard of the settlement
    "wait-park settle",  # in one commit
    "settle wait-park",
    "wait | park settle",
    "wait | settle park",
    "settle wait | park",
    "wait settle | park",
]
ANSWERS = ["complete", "fail", "time out"]


def answer(token_id: bytes, how: str) -> tuple[bytes, bytes]:
    """What settles the token: data and error."""
    return (token_id, b"") if how == "complete" else (b"", error("TIMED_OUT" if how == "time out" else "USER"))


def settle(namespace: str, token_id: bytes, how: str) -> m.Command:
    """The command that settles it."""
    if how == "time out":
        return m.TokensDue(namespace, [token_id])
    return m.SettleToken(namespace, token_id, *answer(token_id, how))


def answers_of(worker: Worker) -> dict[bytes, list[m.Checkpoint]]:
    """What the worker was told of each run's wait: by an update, or with the resume."""
    told: dict[bytes, list[m.Checkpoint]] = defaultdict(list)
    for delivery in worker.deliveries:
        for run_id, _, checkpoint in delivery.updates:
            told[run_id].append(checkpoint)
        for order in delivery.resumes:
            told[order.run.id] += [one for one in order.checkpoints if one.status != m.PENDING]
    return told


@pytest.mark.parametrize("order", ORDERS)
def test_a_completion_and_a_block_in_every_order(db: Driver, order: str) -> None:
    """In each round many tokens are settled while, for each of them, two runs block on it."""
    chance = random.Random(order)
    worker = db.worker(slots=10_000, places=100_000)
    assert db.clock is not None
    for _ in range(ROUNDS):
        hows = [chance.choice(ANSWERS) for _ in range(AT_ONCE)]
        timeouts = [SECOND if how == "time out" else None for how in hows]
        made = db.do(*(m.CreateToken(db.namespace, ids.new_id(), one, [], None) for one in timeouts))
        tokens = [token_id for token_id, _ in made]
        [handles] = db.do(m.TriggerRuns(db.namespace, [_new() for _ in range(2 * AT_ONCE)]))
        runs = [handle.run_id for handle in handles]
        db.clock.turn(1)
        token_of = {run_id: tokens[place // 2] for place, run_id in enumerate(runs)}
        waits = (
            [worker.report_of(one, "", token_wait(1, token_of[one])) for one in runs] if "wait-" not in order else []
        )
        parks = [
            worker.report_of(one, rules.PARK, *([token_wait(1, token_of[one])] if not waits else [])) for one in runs
        ]
        reports = {"wait": waits, "park": parks, "wait-park": parks}
        settles = [settle(db.namespace, one, how) for one, how in zip(tokens, hows, strict=True)]
        for commit in order.split(" | "):
            commands: list[m.Command] = []
            sent: list[m.Report] = []
            for what in commit.split():
                if what == "settle":
                    commands += settles
                else:
                    sent += reports[what]
                    worker.let_go(reports[what])
                    commands.append(worker.frame(*reports[what]))
            db.do(*commands)
            worker.take_up(sent)
        how_of, told_of = dict(zip(tokens, hows, strict=True)), answers_of(worker)
        for run_id in runs:
            assert not worker.bodies[run_id].parked, (run_id.hex(), how_of[token_of[run_id]])
            [told] = told_of[run_id]
            expected = m.SUCCEEDED if how_of[token_of[run_id]] == "complete" else m.FAILED_CHECKPOINT
            assert told.status == expected
            assert (told.value or b"") == (token_of[run_id] if expected == m.SUCCEEDED else b"")
        worker.send(*(worker.report_of(one, rules.COMPLETE, output=b"") for one in runs))
        worker.deliveries.clear()
    assert {row[0] for row in _statuses(db)} == {m.COMPLETED}
    assert db.count("runs") == ROUNDS * AT_ONCE * 2


def test_a_completion_on_one_replica_and_a_block_on_the_other(
    migrated_postgres_url: str, replica: Callable[..., Driver]
) -> None:
    """Two replicas commit at the same time: one the blocks, the other the completions, of which each token gets two."""
    home, away = (replica(migrated_postgres_url, clock=None) for _ in range(2))
    worker = home.worker(slots=10_000, places=100_000)
    chance = random.Random(3)
    until = time.monotonic() + SECONDS
    for number in range(REPLICA_ROUNDS[1]):
        if number >= REPLICA_ROUNDS[0] and time.monotonic() > until:
            break
        made = away.do(*(m.CreateToken(away.namespace, ids.new_id(), None, [], None) for _ in range(REPLICA_AT_ONCE)))
        tokens = [token_id for token_id, _ in made]
        [handles] = home.do(m.TriggerRuns(home.namespace, [_new() for _ in range(2 * REPLICA_AT_ONCE)]))
        runs = [handle.run_id for handle in handles]
        pairs = [(run_id, tokens[place // 2]) for place, run_id in enumerate(runs)]
        if number % 2:  # the wait is recorded before; only the park races
            worker.send(*(worker.report_of(run_id, "", token_wait(1, one)) for run_id, one in pairs))
            parks = [worker.report_of(run_id, rules.PARK) for run_id, _ in pairs]
        else:
            parks = [worker.report_of(run_id, rules.PARK, token_wait(1, one)) for run_id, one in pairs]
        chance.shuffle(parks)
        first, second = ([m.SettleToken(away.namespace, one, by, b"") for one in tokens] for by in (b"1", b"2"))
        chance.shuffle(second)
        won: dict[bytes, list[bytes]] = {one: [] for one in tokens}

        def block(parks: list[m.Report] = parks) -> None:
            """In two frames: some block before, some after."""
            for half in (parks[::2], parks[1::2]):
                worker.send(*half)

        def complete(won: dict[bytes, list[bytes]] = won, first: list[Any] = first, second: list[Any] = second) -> None:
            for commands in (first[::2], second, first[1::2]):
                for command, is_winner in zip(commands, away.do(*commands), strict=True):
                    if is_winner:
                        won[command.token_id].append(command.data)

        race(*((block, complete) if chance.random() < 0.5 else (complete, block)))
        assert {one: len(winners) for one, winners in won.items() if len(winners) != 1} == {}
        # What another replica has settled or woken, the worker's own one takes up when it is notified.
        home.loop.expect_backlog(home.namespace)
        home.look()
        home.do(m.CatchUp(home.namespace, worker.session, worker.connection_no, _told(worker)))
        told_of = answers_of(worker)
        for run_id, token_id in pairs:
            assert [one.value for one in told_of[run_id][:1]] == won[token_id], run_id.hex()
            assert not worker.bodies[run_id].parked, run_id.hex()
        worker.send(*(worker.report_of(one, rules.COMPLETE, output=b"") for one in runs))
        worker.deliveries.clear()
    assert {row[0] for row in _statuses(home)} == {m.COMPLETED}


def _new() -> m.NewRun:
    return m.NewRun(ids.new_id(), "t", b"", b"f")


def _statuses(db: Driver) -> list[tuple[int, ...]]:
    with db.transaction() as tx:
        return list(tx.fetch("SELECT DISTINCT status FROM runs"))


def _told(worker: Worker) -> dict[bytes, int]:
    return {run_id: body.seen for run_id, body in worker.bodies.items()}
