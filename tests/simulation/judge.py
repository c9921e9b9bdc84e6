"""The outside ledger of a play, and what must hold of it in the end."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from holdfast import ids
from holdfast_scheduler import model as m
from simulation import bodies
from simulation.sides import payload_of

if TYPE_CHECKING:
    from simulation.play import Play

_COMMITTED = """
SELECT r.fence, (SELECT count(*) FROM checkpoints c WHERE c.namespace = r.namespace AND c.run_id = r.id AND c.name = ?
AND c.status = 2) FROM runs r WHERE r.id = ?
"""
_RUNS = """
SELECT r.id, r.status, r.attempt, r.recoveries, r.fence, r.session, r.parent, r.due_at, r.pending, i.payload, x.output,
x.error, d.committed FROM runs r JOIN run_inputs i ON i.run_id = r.id LEFT JOIN run_results x ON x.run_id = r.id
LEFT JOIN run_metadata d ON d.run_id = r.id ORDER BY r.id
"""


CLOCKS = 1e-5
"""Seconds that instants in whole microseconds may differ by."""


class Judge:
    """Sees every effect at the instant it is done, and the rows in the end."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.is_closed = False
        self.effects: list[tuple[bytes, str, int]] = []
        self._waits: dict[tuple[str, str], float] = {}
        """Run and name of a wait → when it was asked for first."""
        self._accepted: dict[bytes, str] = {}
        self._canceled: set[bytes] = set()
        self._may_be_canceled: set[bytes] = set()
        self._plans = {plan["name"]: plan for plan in bodies.all_plans(play.roots)}

    # --- while it goes on -------------------------------------------------------------------------------------------

    def effect(self, run_id: str, name: str, fence: int) -> None:
        """See `bodies.World`."""
        if self.is_closed:
            return
        run = ids.to_bytes(ids.RUN, run_id)
        rows = self._play.reader.execute(_COMMITTED, (name, run)).fetchall()
        self._play.say(f"    effect {name} of {self.name_of(run)} under fence {fence}")
        self.effects.append((run, name, fence))
        if not rows:
            self._play.failed(f"{name}: its run is executed and not committed (promise 1)")
            return
        owner, committed = rows[0]
        if fence > owner:
            self._play.failed(f"{name}: fence {fence} executes and is not committed (promise 1)")
        if fence == owner and committed:
            self._play.failed(f"{name}: done again under the fence in force after its commit (promise 3)")

    def wait_asked(self, run_id: str, name: str) -> None:
        """See `bodies.World`."""
        self._waits.setdefault((run_id, name), self._play.loop.time())

    def wait_over(self, run_id: str, name: str, seconds: float) -> None:
        """See `bodies.World`."""
        waited = self._play.loop.time() - self._waits[run_id, name]
        if not self.is_closed and not self._play.has_jumped_ahead and waited < seconds - CLOCKS:
            self._play.failed(f"{name}: a wait of {seconds} s was over after {waited:.6f} s")

    def token_made(self, token_id: str, name: str) -> None:
        """See `bodies.World`."""
        if not self.is_closed:
            self._play.complete_later(ids.to_bytes(ids.TOKEN, token_id))

    def accepted(self, run: bytes, plan: bodies.Plan) -> None:
        """A trigger was acknowledged."""
        self._accepted[run] = plan["name"]

    def may_be_canceled(self, run: bytes) -> None:
        """Somebody asks for the cancellation. The answer may be lost, and a second one says that it came too late."""
        self._may_be_canceled.add(run)

    def canceled(self, run: bytes) -> None:
        """A cancellation was acknowledged."""
        self._canceled.add(run)

    def name_of(self, run: bytes) -> str:
        """The plan that a run executes."""
        rows = self._play.reader.execute("SELECT payload FROM run_inputs WHERE run_id = ?", (run,)).fetchall()
        return payload_of(rows[0][0])["name"] if rows else run.hex()

    def is_over(self) -> bool:
        """Whether every run has ended."""
        (left,) = self._play.reader.execute("SELECT count(*) FROM runs WHERE status < 10").fetchone()
        return not left

    # --- in the end -------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Note every promise that was broken."""
        runs = {row[0]: _Run(*row) for row in self._play.reader.execute(_RUNS)}
        for run_id, name in self._accepted.items():
            if run_id not in runs:
                self._fail(f"{name}: was accepted and is not there (promise 1)")
        disturbed = {run.name for run in runs.values() if run.status == m.CANCELED}
        for run in runs.values():
            self._judge_run(run, runs, disturbed)
        self._judge_duplicates(runs)
        self._judge_effects(runs)
        self._judge_rest()

    def _fail(self, what: str) -> None:
        self._play.failed(what)

    def _judge_run(self, run: _Run, runs: dict[bytes, _Run], disturbed: set[str]) -> None:
        status = m.STATUS_NAMES[run.status]
        if not m.is_final(run.status):
            self._fail(f"{run.name}: is {status} for ever; due {run.due_at}, pending {run.pending} (promise 7)")
            return
        if run.id in self._canceled and run.status != m.CANCELED:
            self._fail(f"{run.name}: its cancellation was acknowledged and it is {status}")
        if run.recoveries and self._play.is_lossless:
            self._fail(f"{run.name}: {run.recoveries} recoveries although no worker was lost")
        if run.recoveries > self._play.losses:
            self._fail(f"{run.name}: {run.recoveries} recoveries after {self._play.losses} losses")
        plan = self._plans[run.name]
        expected = bodies.expected(plan)
        if run.attempt > expected.attempts:
            self._fail(f"{run.name}: {run.attempt} attempts instead of {expected.attempts}")
        if run.status == m.CANCELED:
            parent = runs.get(run.parent)
            if run.id not in self._may_be_canceled and (parent is None or parent.status == m.COMPLETED):
                self._fail(f"{run.name}: is CANCELED and nobody canceled it")
            return
        wanted = m.FAILED if expected.fails else m.COMPLETED
        if run.status != wanted:
            self._fail(f"{run.name}: is {status} instead of {m.STATUS_NAMES[wanted]}: {run.error!r}")
        elif run.attempt != expected.attempts:
            self._fail(f"{run.name}: {run.attempt} attempts instead of {expected.attempts}")
        if run.status == m.COMPLETED:
            self._judge_completed(run, plan, expected, disturbed)

    def _judge_completed(self, run: _Run, plan: bodies.Plan, expected: bodies.Expected, disturbed: set[str]) -> None:
        output = payload_of(run.output)
        if not bodies.is_right(plan, output, disturbed):
            self._fail(f"{run.name}: the result {output!r} is not that of {plan!r}")
        count = json.loads(run.metadata or b"{}").get("count", 0)
        if count != expected.count:
            self._fail(f"{run.name}: metadata counts {count} instead of {expected.count}")
        rows = self._play.reader.execute("SELECT name FROM checkpoints WHERE run_id = ? AND status = 2", (run.id,))
        committed = Counter(name for (name,) in rows)
        for name in expected.steps:
            if committed[name] != 1:
                self._fail(f"{run.name}: {committed[name]} successful checkpoints of {name} (promise 3)")

    def _judge_duplicates(self, runs: dict[bytes, _Run]) -> None:
        groups: dict[tuple[bytes | None, str], list[_Run]] = defaultdict(list)
        for run in runs.values():
            # A run with a global key is a child of whoever asked first.
            groups[None if run.name.startswith("shared") else run.parent, run.name].append(run)
        for (parent, name), group in groups.items():
            most = 1
            # A new attempt asks again for children that failed, and for those that lost a race and were abandoned.
            asked_again = name.startswith("racer") or any(run.status != m.COMPLETED for run in group)
            if name.startswith("shared"):
                most += sum(run.status == m.FAILED for run in group)  # which frees the key
            elif parent is not None and asked_again:
                most = runs[parent].attempt
            if len(group) > most:
                self._fail(f"{name}: {len(group)} runs instead of {most} (promise 3)")

    def _judge_effects(self, runs: dict[bytes, _Run]) -> None:
        for (run_id, name, fence), count in Counter(self.effects).items():
            if count > 1:
                self._fail(f"{name}: done {count} times under fence {fence} of {runs[run_id].name} (promise 9)")
        for (run_id, name), count in Counter((run, name) for run, name, _ in self.effects).items():
            run = runs[run_id]
            is_entry = name.startswith("enter")
            if self._play.handed_back:
                continue
            if not is_entry and count > run.recoveries + run.attempt:
                self._fail(f"{name}: done {count} times with {run.recoveries} recoveries of {run.name} (promise 9)")
            if is_entry and count > 1 and self._play.is_lossless and self._play.slots > 10:
                self._fail(f"{run.name}: entered {count} times in attempt {name[6:]} although nothing was lost")

    def _judge_rest(self) -> None:
        """Nothing is left behind, and everybody can take everything again."""
        play = self._play
        (left,) = play.reader.execute("SELECT count(*) FROM sessions").fetchone()
        if left != len(play.workers) and not play.has_jumped_back:
            self._fail(f"{left} sessions are left of {len(play.workers)} workers")
        assert play.scheduler is not None
        for worker in play.workers.values():
            state = worker.supervisor and worker.supervisor._state
            if not state:
                self._fail(f"worker {worker.index} has no state")
                continue
            if not state.is_connected:
                self._fail(f"worker {worker.index} is not connected")
            if state.executing or state.held or state._buffer:
                self._fail(
                    f"worker {worker.index} executes {state.executing}, holds {state.held}, {bool(state._buffer)}"
                )
            left_over = [len(one.executor.bodies) for one in worker.pool.living.values()]
            if any(left_over):
                self._fail(f"worker {worker.index}: bodies are left in its executors: {left_over}")
        offers = play.scheduler.engine._offers().get("default", [])
        if [offer.slots for offer in offers] != [play.slots] * len(play.workers):
            self._fail(f"offers are {[offer.slots for offer in offers]} instead of {play.slots} each")


class _Run:
    """A row in the end."""

    def __init__(
        self, id: bytes, status: int, attempt: int, recoveries: int, fence: int, session: bytes | None,
        parent: Any, due_at: int | None, pending: int, payload: bytes, output: Any, error: Any, metadata: bytes | None,
    ) -> None:  # fmt: skip
        self.id = id
        self.name: str = payload_of(payload)["name"]
        self.status = status
        self.attempt = attempt
        self.recoveries = recoveries
        self.fence = fence
        self.session = session
        self.parent = parent
        self.due_at = due_at
        self.pending = pending
        self.output = output
        self.error = error
        self.metadata = metadata
