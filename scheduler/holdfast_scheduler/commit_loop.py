"""Group commit: everything that waits becomes one transaction; answers and effects go out after the commit.

There is no artificial delay: while one commit is in flight the next batch gathers in the sockets. A failing
command fails alone: when the database refuses a value, or anything else goes wrong, the batch is rolled back and halved
until the culprit stands alone. A conflict with another replica has the whole batch tried again, because nothing was
answered yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from holdfast_scheduler import model as m
from holdfast_scheduler import schedule_store, store
from holdfast_scheduler.backlog import Backlog
from holdfast_scheduler.commands import PostponedEvent, apply_commands, can_be_foreseen
from holdfast_scheduler.database import ConflictError, Database, DataError, LostError
from holdfast_scheduler.dispatch import Offer
from holdfast_scheduler.errors import (
    OverloadedError,
    RequestError,
    ShuttingDownError,
    StorageUnavailableError,
    internal,
    invalid,
)
from holdfast_scheduler.model import Command, Delivery
from holdfast_scheduler.timers import DatabaseClock
from holdfast_scheduler.unit_of_work import UnitOfWork, World

log = logging.getLogger("holdfast.scheduler")

CONFLICT_TRIES: Final = 20
"""Times a batch is tried again after a conflict before its callers are told to ask again."""
SLOW_COMMIT: Final = 0.25
"""Seconds. After a commit that took longer the next one runs in a thread."""
OUTAGE_PAUSE: Final = 0.25
"""Seconds between tries while the database is away."""
GAP: Final = 0.5
"""Part of a lease without a commit after which workers may have been unable to renew theirs: the database or this
process stood still."""
TURNS: Final = 3
"""Turns of the event loop between two commits. In one turn a frame that was being sent is found to be gone, in the next
the task that waited for it goes on, and sends what the last commit brought; the same for frames that come."""
LOOK_ROWS: Final = 1_000
"""Rows of each kind that one look of a second takes."""
SCHEDULE_WEIGHT: Final = 20
"""Rows that one due schedule counts for: it may have several instants to fire."""

_KEPT: Final = (m.ApplyReports, m.EndSession, m.ReconcileHeld, m.RunsDue, m.TokensDue)
"""Commands that nobody would send again: they wait, in order, until the database is back."""

_DUE: Final[dict[type, str]] = {m.RunsDue: "run_ids", m.SchedulesDue: "schedule_ids"}
"""Commands that name what is due, and where: one bad name must not keep the others from their turn."""


@dataclass(slots=True)
class Committed:
    """What a commit brings, for one namespace."""

    namespace: str
    deliveries: dict[bytes, Delivery]
    acknowledged: dict[bytes, int]  # session → highest frame of reports
    created: list[bytes]
    ended: list[tuple[bytes, int, bytes | None, bytes | None]]
    touched: set[bytes]
    timed: list[tuple[int, bytes]]
    timed_tokens: list[tuple[int, bytes]]
    timed_queues: list[tuple[int, str]]
    left: m.Left
    ended_sessions: list[bytes]
    let_go: list[tuple[bytes, bytes]]  # (session, run)
    timed_schedules: list[tuple[int, bytes]]


@dataclass(slots=True)
class Meter:
    """Counts for the benchmark's table and the metrics."""

    commits: int = 0
    commands: int = 0
    statements: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiting:
    command: Command
    future: asyncio.Future[Any] | None
    weight: int = 1  # rows, about
    size: int = 0  # bytes of payloads and results

    def fail(self, error: Exception) -> None:
        """Tell whoever still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Batch:
    outcomes: list[Any] = field(default_factory=list)
    committed: list[Committed] = field(default_factory=list)
    clock: tuple[int, int] | None = None  # see `Transaction.now_read_at`


class CommitLoop:
    """One per scheduler process. `submit` and the callbacks belong to the event loop's thread."""

    def __init__(
        self,
        database: Database,
        world: World,
        replica: bytes,
        offers: Callable[[], dict[str, list[Offer]]],
        after: Callable[[list[Committed]], None],
        in_doubt: Callable[[], None],
    ) -> None:
        self._database = database
        self._world = world
        self._replica = replica
        self._offers = offers
        self._after = after
        self._in_doubt = in_doubt
        self.clock = DatabaseClock()
        self._queue: deque[_Waiting] = deque()
        self._taken: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "holdfast-commit")
        self._stopping = False
        self._is_hurried = False
        self._foresees = False  # not before a clock was read, nor after a failure
        self._backlogs: dict[str, Backlog] = {}
        self._expected: set[str] = set()  # namespaces of which a scan is wanted since the last commit began
        self._heard: list[tuple[str, m.Left]] = []  # what other replicas have told since then
        self._fresh_leases_due = True  # after a start, and after an outage
        self._last_now = 0  # the database's clock at the last commit
        self.steady_since: float | None = None
        self._away = ""  # why the database was away last
        self.meter = Meter()

    def submit(self, command: Command, *, wanted: bool = True) -> asyncio.Future[Any]:
        """Queue a command; the future has its outcome once it is committed.

        Raises (in the future): OverloadedError, ShuttingDownError, StorageUnavailableError, RefusedError.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._stopping:
            future.set_exception(ShuttingDownError())
        elif len(self._queue) >= self._world.settings.commands and not isinstance(command, _KEPT):
            future.set_exception(OverloadedError())
        else:
            weight, size = 1, 0
            if isinstance(command, (m.TriggerRuns, m.TriggerBatch)):
                weight, size = len(command.items), sum([len(new.payload) for new in command.items])
            if isinstance(command, m.ApplyReports):
                weight, size = len(command.reports), sum([_size(one) for one in command.reports])
                command.arrived_at = time.monotonic()
            if isinstance(command, m.SchedulesDue):
                weight = len(command.schedule_ids) * SCHEDULE_WEIGHT
            self._queue.append(_Waiting(command, future if wanted else None, weight, size))
            self._filled.set()
        return future

    def ring(self, namespace: str, run_ids: list[bytes]) -> None:
        """Instants of runs have come. Those that come in before the next commit are looked up together."""
        last = self._queue[-1] if self._queue else None
        if last is not None and type(last.command) is m.RunsDue and last.command.namespace == namespace:
            last.command.run_ids += run_ids
        else:
            self.submit(m.RunsDue(namespace, run_ids), wanted=False)

    def drain_events(self) -> None:
        """Have the next commit take up postponed effects on other runs, before all that waits."""
        if not self._stopping and not (self._queue and type(self._queue[0].command) is m.DrainEvents):
            self._queue.appendleft(_Waiting(m.DrainEvents(), None))
            self._filled.set()

    def expect_backlog(self, namespace: str) -> None:
        """Have the next commit look where runs wait: a worker came, or another replica may have queued some."""
        self._expected.add(namespace)

    def hear(self, namespace: str, left: m.Left) -> None:
        """Another replica tells what a commit of its own has left for others."""
        self._heard.append((namespace, left))

    def has_backlog(self, namespace: str, tasks: Collection[str] | None = None, version: str = "") -> bool:
        """Whether runs may wait that a worker with credit for these tasks, in this version, could take; None means any
        worker."""
        if namespace in self._expected or self._heard:
            return True
        backlog = self._backlogs.get(namespace)
        return backlog is None or backlog.may_wait(tasks, version)

    def is_backlog_known(self, namespace: str) -> bool:
        """Whether every lane in which runs wait is listed. If not, a look each second finds the others."""
        backlog = self._backlogs.get(namespace)
        return backlog is None or backlog.lanes.are_all_known

    def has_strays(self, namespace: str) -> bool:
        """Whether runs wait for their version to come back, or for the end of the patience with it."""
        backlog = self._backlogs.get(namespace)
        return backlog is not None and bool(backlog.stays)

    def tells_of_worker(self, opened_at: float) -> bool:
        """Whether the end of a stream, opened at this instant of the monotonic clock, tells of its worker: it does not
        when the stream has seen an outage, after which workers are still on their way back."""
        steady = self.steady_since
        return steady is not None and (opened_at >= steady or time.monotonic() - steady > self._world.settings.lease)

    async def run(self) -> None:
        """Commit until `stop`, then what is left. It raises what only a defect brings about; nobody waits after it."""
        try:
            await self._run()
        except Exception:
            self._stopping = True
            for waiting in (*self._taken, *self._queue):
                waiting.fail(StorageUnavailableError())
            raise

    async def _run(self) -> None:
        """Commit on the loop's own thread. In a thread of their own commits and frames would fight for the interpreter
        lock at every statement: measured, a fifth of all time. While the database is slow or away they do run in a
        thread, so that the process still answers.
        """
        loop = asyncio.get_running_loop()
        in_thread = True
        while not (self._stopping and not self._queue):
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            taken = self._taken = self._take()
            self._begin()
            offers = self._offers()
            commands = [waiting.command for waiting in taken]
            started = loop.time()
            try:
                if in_thread:
                    batch = await loop.run_in_executor(self._thread, self._commit, commands, offers)
                else:
                    batch = self._commit(commands, offers, is_hurried=True)
            except ConflictError:
                # Another scheduler holds a lock, perhaps one that stands still. Wait for it where nobody else has to.
                self._queue.extendleft(reversed(taken))
                in_thread = True
                continue
            except LostError as error:
                self._outage(taken, error)
                in_thread = True
                if self._stopping:
                    return
                await asyncio.sleep(OUTAGE_PAUSE)
                continue
            except Exception as error:
                log.exception("commit failed commands=%d", len(taken))
                for waiting in taken:
                    waiting.fail(StorageUnavailableError(f"the commit failed: {error}"))
                self._cut_off()
                continue
            in_thread = loop.time() - started > SLOW_COMMIT
            if self.steady_since is None:
                self.steady_since = time.monotonic()
            self._note(batch)
            self._tell(batch.committed)
            for waiting, outcome in zip(taken, batch.outcomes, strict=True):
                if waiting.future is None or waiting.future.done():
                    continue
                if isinstance(outcome, BaseException):
                    waiting.future.set_exception(outcome)
                else:
                    waiting.future.set_result(outcome)
            # Let the loop send what this commit brought, and take what has arrived meanwhile: that is the next batch.
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def _tell(self, committed: list[Committed]) -> None:
        try:
            self._after(committed)
        except Exception:
            log.exception("what a commit brought cannot be told")
            # It counts all the same. Workers ask for what they have not heard, the look of each second finds the rest.
            self._distrust()
            self._cut_off()

    def _cut_off(self) -> None:
        """End all streams, which is no fault of the workers: whether they are lost, their leases tell."""
        if self.steady_since is not None:
            self.steady_since = time.monotonic()
        self._in_doubt()

    def _begin(self) -> None:
        """Before a commit: what is wanted from now on is for the next one, even if this one finds nothing left."""
        for namespace in self._expected:
            self._backlog(namespace).expect()
        self._expected.clear()
        for namespace, left in self._heard:
            self._backlog(namespace).hear(left.places, left.opened, bodies=left.bodies)
        self._heard.clear()

    def _note(self, batch: _Batch) -> None:
        """After a commit."""
        if batch.clock is not None:
            self.clock.learn(*batch.clock)
        for committed in batch.committed:
            self._backlog(committed.namespace).end_commit()

    def _backlog(self, namespace: str) -> Backlog:
        found = self._backlogs.get(namespace)
        if found is None:
            found = self._backlogs[namespace] = Backlog()
        return found

    def _distrust(self) -> None:
        """A commit has failed, or nobody knows: what it left in memory does not count."""
        for backlog in self._backlogs.values():
            backlog.expect()
        self._world.queue_changes = None
        self._world.log_counts.clear()

    def _take(self) -> list[_Waiting]:
        queue, most = self._queue, self._world.settings.commit_rows
        taken = [queue.popleft()]
        weight, size = taken[0].weight, taken[0].size
        most_bytes = self._world.settings.commit_bytes
        while queue and weight + queue[0].weight <= most and size + queue[0].size <= most_bytes:
            taken.append(queue.popleft())
            weight += taken[-1].weight
            size += taken[-1].size
        return taken

    def _outage(self, taken: list[_Waiting], error: LostError) -> None:
        """Nothing was committed, or nobody knows: callers are told to ask again with the same ids; what workers
        reported waits for the database."""
        why = str(error).strip().replace("\n", " ")
        if self.steady_since is not None or why != self._away:
            log.warning("database is away error=%s", why)
        self.steady_since, self._away = None, why
        self._fresh_leases_due = True
        kept = []
        for waiting in taken:
            if isinstance(waiting.command, _KEPT) and not self._stopping:
                kept.append(waiting)
            else:
                waiting.fail(StorageUnavailableError())
        self._queue.extendleft(reversed(kept))
        if error.in_doubt:
            # Reports may have been applied and their deliveries lost: the reconnect exchange of every worker sends
            # again whatever it missed.
            self._in_doubt()

    async def stop(self) -> None:
        """Refuse new commands; `run` returns when the queue is empty."""
        self._stopping = True
        self._filled.set()

    def close(self) -> None:
        """End the database thread."""
        self._thread.shutdown(wait=True)

    # --- in the database thread --------------------------------------------------------------------------------------

    def _commit(self, commands: list[Command], offers: dict[str, list[Offer]], *, is_hurried: bool = False) -> _Batch:
        """Commit; `is_hurried` is for the loop's thread: the first conflict is raised, with nothing committed."""
        started = time.perf_counter()
        self._is_hurried = is_hurried
        batch = self._try(commands, offers)
        self.meter.seconds += time.perf_counter() - started
        self.meter.commits += 1
        self.meter.commands += len(commands)
        return batch

    def _try(self, commands: list[Command], offers: dict[str, list[Offer]]) -> _Batch:
        failure: Exception
        for attempt in range(CONFLICT_TRIES):
            try:
                return self._once(commands, {ns: [one.copy() for one in group] for ns, group in offers.items()})
            except ConflictError as error:
                if self._is_hurried:
                    raise
                log.info("conflict, trying again commands=%d error=%s", len(commands), str(error).split("\n")[0])
                time.sleep(0.001 * attempt)
                failure = StorageUnavailableError("too many conflicts with other schedulers; ask again")
            except DataError as error:
                failure = invalid("request", f"the database refuses a value: {error}")
                break
            except LostError:
                raise
            except Exception as error:
                log.exception("commit failed commands=%d", len(commands))
                failure = internal(error)
                break
        return self._without_culprit(commands, offers, failure)

    def _without_culprit(
        self, commands: list[Command], offers: dict[str, list[Offer]], failure: RequestError | Exception
    ) -> _Batch:
        """One of the commands fails: halve until it stands alone, down to the report or the item."""
        self._is_hurried = False  # from here on, a part may be committed before another one meets a conflict
        if len(commands) > 1:
            middle = len(commands) // 2
            first = self._try(commands[:middle], offers)
            second = self._second_half(commands[middle:])
            return _Batch(first.outcomes + second.outcomes, first.committed + second.committed)
        (command,) = commands
        if type(command) is m.ApplyReports and len(command.reports) > 1:
            middle = len(command.reports) // 2
            # Only the second half acknowledges the frame.
            first = self._try([replace(command, frame_no=0, reports=command.reports[:middle])], offers)
            second = self._second_half([replace(command, reports=command.reports[middle:])])
            return _Batch([None], first.committed + second.committed)
        if type(command) is m.TriggerRuns and len(command.items) > 1:
            middle = len(command.items) // 2
            first = self._try([replace(command, items=command.items[:middle])], offers)
            second = self._second_half([replace(command, items=command.items[middle:])])
            return _Batch([first.outcomes[0] + second.outcomes[0]], first.committed + second.committed)
        due = _DUE.get(type(command))
        if due is not None and len(named := getattr(command, due)) > 1:
            middle = len(named) // 2
            first = self._try([replace(command, **{due: named[:middle]})], offers)
            second = self._second_half([replace(command, **{due: named[middle:]})])
            return _Batch([None], first.committed + second.committed)
        log.warning("one command fails command=%s error=%s", type(command).__name__, failure)
        if type(command) is m.ApplyReports and command.reports and not command.reports[0].invalid:
            # Its worker must learn of it: a report that is never answered would hold the run up for ever.
            command.reports[0].invalid = str(failure)
            return self._try(commands, offers)
        if type(command) is m.TriggerRuns and isinstance(failure, RequestError):
            return _Batch([[failure.fault] * len(command.items)], [])
        return _Batch([failure], [])

    def _second_half(self, commands: list[Command]) -> _Batch:
        """The first half is committed and may have used the credit: this one only queues. If the database goes away
        now, what the first half brought is never delivered, so workers must ask. Nor is it written into frames yet, so
        its runs are loaded anew."""
        self._world.foreseen.clear()
        try:
            return self._try(commands, {})
        except LostError as error:
            error.in_doubt = True
            raise

    def _once(self, commands: list[Command], offers: dict[str, list[Offer]]) -> _Batch:
        # Before the database's clock is read, and once for all: what is slow after that must not count as having come
        # before it, or a wait would end too early.
        began_at = time.monotonic()
        for command in commands:
            if type(command) is m.ApplyReports and command.arrived_at is not None:
                command.waited_us = round((began_at - command.arrived_at) * 1e6)
        foreseen, self._foresees = self._foreseen(commands), False
        tx = self._database.begin(is_hurried=self._is_hurried, foreseen=foreseen)
        try:
            grouped: dict[str, list[tuple[int, Command]]] = {}
            outcomes: list[Any] = [None] * len(commands)
            if any(_judges(command) for command in commands) and self._is_gap(tx.now):
                self._fresh_leases_due = True
            events = 0
            fresh_leases = self._fresh_leases_due
            if fresh_leases:
                length = round(self._world.settings.lease * 1e6)
                store.extend_leases(tx, tx.now + length, length)
            for place, command in enumerate(commands):
                if type(command) in (m.Tick, m.DrainEvents):
                    for found in _overlooked(tx, command, self._world):
                        events += type(found) is PostponedEvent
                        grouped.setdefault(found.namespace, []).append((-1, found))
                    soon = tx.now + round(2 * self._world.settings.look_interval * 1e6)
                    outcomes[place] = (tx.now, schedule_store.due_before(tx, soon, LOOK_ROWS))
                elif fresh_leases and type(command) is m.EndSession and command.lost:
                    outcomes[place] = False  # it has a fresh lease; whether it comes back is seen until that ends
                else:
                    grouped.setdefault(command.namespace, []).append((place, command))
            committed = []
            units = []
            for namespace, group in grouped.items():
                unit = UnitOfWork(tx, namespace, self._world)
                units.append(unit)
                mine = [command for _, command in group]
                results = apply_commands(unit, mine, offers.get(namespace, []), self._backlog(namespace), self._replica)
                for (place, _), outcome in zip(group, results, strict=True):
                    if place >= 0:
                        outcomes[place] = outcome
                committed.append(_committed(unit, mine, results))
            if events >= LOOK_ROWS:
                committed[0].left.events = True
        except BaseException:
            self._distrust()
            tx.rollback()
            raise
        try:
            tx.commit()
        except LostError as error:
            self._distrust()
            error.in_doubt = True
            tx.rollback()  # SQLite keeps a transaction open whose COMMIT met a full disk
            raise
        except BaseException:
            self._distrust()
            tx.rollback()
            raise
        if any(unit.changes_queues for unit in units):
            self._world.queue_changes = None
        # A commit that stood still in its middle is noticed only now; the next one gives fresh leases then.
        self._fresh_leases_due = not fresh_leases and self._is_gap(tx.now)
        if self._fresh_leases_due or fresh_leases:
            self.steady_since = time.monotonic()
        self._last_now = tx.now
        self._foresees = True
        for unit in units:
            unit.remember()
        self.meter.statements += tx.statements
        return _Batch(outcomes, committed, None if tx.is_foreseen else (tx.now, tx.now_read_at))

    def _foreseen(self, commands: list[Command]) -> tuple[int, int] | None:
        """The instant of the next transaction and the state of the queues, if a commit of these commands is likely to
        need no look at the database before it writes; see docs/decisions/0019."""
        world = self._world
        if not (self._database.is_shared and self._is_hurried and self._foresees) or self._fresh_leases_due:
            return None
        if world.queue_changes is None or not can_be_foreseen(commands, world):
            return None
        return max(self.clock.now(), self._last_now), world.queue_changes

    def _is_gap(self, now: int) -> bool:
        return now - self._last_now > GAP * self._world.settings.lease * 1e6


def _judges(command: Command) -> bool:
    """Whether the command may end sessions for their silence."""
    return type(command) is m.Tick or (type(command) is m.EndSession and command.lost)


def _size(report: m.Report) -> int:
    size = len(report.output or b"")
    for record in report.records:
        size += len(record.value or b"") + sum([len(new.payload) for new in record.items])
    return size


def _committed(unit: UnitOfWork, commands: list[Command], results: list[Any]) -> Committed:
    acknowledged: dict[bytes, int] = {}
    ended_sessions = []
    for command, result in zip(commands, results, strict=True):
        if type(command) is m.ApplyReports:
            acknowledged[command.session] = max(command.frame_no, acknowledged.get(command.session, 0))
        elif type(command) is m.EndSession and result:
            ended_sessions.append(command.session)
    ended = [(run.id, run.status, *unit.results[run.id]) for run in unit.all_ended]
    return Committed(
        unit.namespace,
        unit.deliveries,
        acknowledged,
        list(unit.created),
        ended,
        unit.touched,
        unit.timed,
        unit.timed_tokens,
        unit.timed_queues,
        unit.left,
        ended_sessions,
        unit.let_go,
        unit.timed_schedules,
    )


def _overlooked(tx: Any, tick: m.Tick | m.DrainEvents, world: World) -> list[Command]:
    """What nobody else would move: timers of a replica that is gone, sessions whose lease is over, postponed events."""
    found: list[Command] = [PostponedEvent(row[0], row[2], row[3]) for row in store.take_pending_events(tx, LOOK_ROWS)]
    if isinstance(tick, m.DrainEvents):
        return found
    late = tx.now - round(world.settings.look_interval * 1e6)
    due: dict[str, list[bytes]] = {}
    for namespace, run_id, _ in store.overdue(tx, late, LOOK_ROWS):
        due.setdefault(namespace, []).append(run_id)
    found += [m.RunsDue(namespace, run_ids) for namespace, run_ids in due.items()]
    due = {}
    for namespace, token_id, _ in store.due_tokens(tx, late, LOOK_ROWS):
        due.setdefault(namespace, []).append(token_id)
    found += [m.TokensDue(namespace, token_ids) for namespace, token_ids in due.items()]
    if tick.expire_sessions:
        for namespace, session, worker in store.expired_sessions(tx, tx.now):
            found.append(m.EndSession(namespace, session, True, f"worker {worker} was silent for a whole lease"))
        for namespace, session in store.orphaned_sessions(tx):
            found.append(m.EndSession(namespace, session, True, "the session of its worker had ended"))
    return found
