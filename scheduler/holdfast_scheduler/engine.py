"""The engine as the services see it: commands in, outcomes after the commit, deliveries to connected sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa

from holdfast_scheduler import ids, reads, store
from holdfast_scheduler import model as m
from holdfast_scheduler.commit_loop import CommitLoop, Committed
from holdfast_scheduler.database import PUT_OFF, READERS, Database
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.dispatch import Offer
from holdfast_scheduler.model import Command, Delivery, TaskRow
from holdfast_scheduler.replicas import Replicas
from holdfast_scheduler.retention_loop import RetentionLoop
from holdfast_scheduler.settings import Settings
from holdfast_scheduler.timers import Timers
from holdfast_scheduler.unit_of_work import World
from holdfast_scheduler.watching import RECENT_BYTES, Watchers

log = logging.getLogger("holdfast.scheduler")

P = ParamSpec("P")
T = TypeVar("T")

SUPERSEDED: Final = "CONNECTION_SUPERSEDED"
"""What the older one of two connections of a session ends with."""
SCHEDULES_AT_ONCE: Final = 50
"""Schedules that fire in one command."""
NOTICED_AT_ONCE: Final = 1_000
"""Ends of other replicas that one read looks up, with results of up to `RECENT_BYTES` each."""
STOP_WAIT: Final = 5.0
"""Seconds that the last commits may take when the scheduler stops."""


class Connection(Protocol):
    """The stream of a session, as the engine sees it. Its methods are called on the event loop and must not block."""

    session: bytes
    namespace: str
    worker: str
    version: str
    tasks: frozenset[str]
    heeds_after: bool
    """Whether the worker holds a body that is woken ahead of its instant."""
    connection_no: int
    told: dict[bytes, int]
    """Run that the worker holds → highest settled_order that it was told."""

    def offer(self) -> Offer | None:
        """What the worker can take now; None while it takes nothing."""

    def deliver(self, delivery: Delivery | None, acknowledged: int) -> None:
        """Send what a commit brought. `acknowledged` is the highest committed frame of reports, 0 for none."""

    def close(self, reason: str, kind: str = "SHUTTING_DOWN") -> None:
        """End the stream; the worker comes back and the reconnect exchange brings both ends together. `kind` is the
        ErrorReason that it is told."""


class Engine:
    """One per scheduler process. Make and use it in a running event loop.

    `on_failure` is called when it can do no more, which only a defect of it can bring about; `has_failed` says so.
    """

    def __init__(self, database: Database, settings: Settings, on_failure: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.has_failed = False
        self._on_failure = on_failure
        self.database = database
        self.watchers = Watchers()
        self.replica = ids.new_id()
        self._world = World(settings)
        self._world.told = self._told
        self._world.heeds_after = self._heeds_after
        self._connections: dict[bytes, Connection] = {}
        self._opened_at: dict[Connection, float] = {}
        self._offer_tasks: dict[tuple[str, str], int] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._look_task: asyncio.Task[None] | None = None
        self._retention: RetentionLoop | None = None
        self._readers = ThreadPoolExecutor(READERS, "holdfast-read")
        self._graces: set[asyncio.TimerHandle] = set()
        self._replicas = Replicas(
            database,
            self.replica,
            on_session=self._session_has_news,
            on_queued=self._queued_elsewhere,
            on_left=self._left_elsewhere,
            on_ended=self._ended_elsewhere,
        )
        self._looking: set[asyncio.Task[None]] = set()
        self._heard: dict[str, list[bytes]] = {}
        """Watched runs of which another replica has said that they ended, of the namespaces for which ends are read."""
        self._commits = CommitLoop(
            database, self._world, self.replica, self._offers, self._after_commit, self._close_connections
        )
        self._timers = Timers(self._runs_due, self._commits.clock)
        self._token_timers = Timers(self._tokens_due, self._commits.clock)
        self._queue_timers = Timers(self._queues_due, self._commits.clock)
        self._schedule_timers = Timers(self._schedules_due, self._commits.clock)

    @property
    def replica_id(self) -> str:
        """Name of this replica."""
        return ids.to_text("replica_", self.replica)

    @property
    def meter(self) -> Any:
        """Counts of the commit loop."""
        return self._commits.meter

    def database_now(self) -> int:
        """The database's clock, in microseconds since the Unix epoch: never ahead of it, and right to a fraction of a
        commit. Known once something is committed."""
        return self._commits.clock.now()

    async def start(self) -> None:
        """Learn what the database knows, and begin to commit."""
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._readers, self._load_tasks)
        for namespace, row in rows:
            self._world.learn(namespace, row)
        self._replicas.start()
        self._loop_task = loop.create_task(self._commits.run())
        self._loop_task.add_done_callback(self._commits_ended)
        self._look_task = loop.create_task(self._look())
        if self.settings.retention:
            self._retention = RetentionLoop(self.settings, self.do, lambda: self.read(reads.namespaces))
            self._retention.start()

    def _commits_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever asks from now on would wait for ever. A new process begins with what is committed.
            log.critical("the scheduler can commit no more and ends", exc_info=error)
            self.has_failed = True
            self._on_failure()

    def _load_tasks(self) -> list[tuple[str, TaskRow]]:
        tx = self.database.begin()
        try:
            return [
                (namespace, task_row(definition, version, registered_at))
                for namespace, _id, version, registered_at, definition in store.load_tasks(tx)
            ]
        finally:
            tx.rollback()

    async def stop(self) -> None:
        """Commit what is queued, then end."""
        if self._retention is not None:
            self._retention.stop()
        if self._look_task is not None:
            self._look_task.cancel()
        for task in self._looking:
            task.cancel()
        self._replicas.stop()
        self._timers.stop()
        self._token_timers.stop()
        self._queue_timers.stop()
        self._schedule_timers.stop()
        for handle in self._graces:
            handle.cancel()
        self.watchers.stop()
        await self._commits.stop()
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task], timeout=STOP_WAIT)
        self._commits.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    # --- for the services --------------------------------------------------------------------------------------------

    def submit(self, command: Command) -> asyncio.Future[Any]:
        """Carry out a command; the future has its outcome after the commit. Raises, in it: RequestError."""
        return self._commits.submit(command)

    async def do(self, command: Command) -> Any:
        """The same, awaited."""
        return await self._commits.submit(command)

    def send(self, command: Command) -> None:
        """Carry out a command whose outcome travels in a delivery."""
        self._commits.submit(command, wanted=False)

    async def read(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query in a reader's thread."""

        def run() -> T:
            with self.database.reader() as connection:
                return function(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def task(self, namespace: str, task_id: str) -> TaskRow | None:
        """The newest definition of a task."""
        return self._world.tasks.get((namespace, task_id))

    async def task_ids(self, namespace: str) -> list[str]:
        """All tasks of a namespace, also those that workers have announced to other schedulers."""
        if self._replicas.others:
            await self.do(m.Look(namespace))  # a commit learns what it does not know
        return [task for ns, task in self._world.tasks if ns == namespace]

    def workers(self, namespace: str, task_id: str, version: str = "") -> int:
        """Workers connected to this replica that have the task; only those of a version, if one is given."""
        if not version:
            return self._offer_tasks.get((namespace, task_id), 0)
        mine = [one for one in self._connections.values() if one.namespace == namespace and one.version == version]
        return sum(task_id in one.tasks for one in mine)

    # --- for the connections -----------------------------------------------------------------------------------------

    def connect(self, connection: Connection, definitions: list[TaskRow]) -> None:
        """A session is connected: its worker may be given work."""
        old = self._connections.get(connection.session)
        if old is not None:
            self._count(old, -1)
            old.close("a newer connection of this session exists", SUPERSEDED)
        self._connections[connection.session] = connection
        self._opened_at[connection] = time.monotonic()
        self._world.worker_names[connection.session] = connection.worker
        for row in definitions:
            self._world.learn(connection.namespace, row)
        self._count(connection, +1)
        self._commits.expect_backlog(connection.namespace)
        if connection.connection_no > 1:
            # Whichever replica had it before may not know yet that its stream is dead.
            self._replicas.session(connection.namespace, connection.session)

    def _count(self, connection: Connection, by: int) -> None:
        for task in connection.tasks:
            key = (connection.namespace, task)
            self._offer_tasks[key] = self._offer_tasks.get(key, 0) + by

    def disconnect(self, connection: Connection, connection_no: int, *, goodbye: bool) -> None:
        """A stream has ended. Without a goodbye the worker may come back within the grace; then it counts as lost,
        unless the stream has seen an outage or a defect of ours: then its lease decides."""
        opened_at = self._opened_at.pop(connection, None)
        if self._connections.get(connection.session) is connection:
            del self._connections[connection.session]
            self._count(connection, -1)
        if goodbye:
            self.send(m.EndSession(connection.namespace, connection.session, False, "", connection_no))
            return
        if opened_at is None:
            return  # it was ended by a defect here, which tells nothing of the worker
        evidence = f"the stream of worker {connection.worker} ended and it did not come back"
        command = m.EndSession(connection.namespace, connection.session, True, evidence, connection_no)

        def lost() -> None:
            self._graces.discard(handle)
            if self._commits.tells_of_worker(opened_at):
                self.send(command)

        handle = asyncio.get_running_loop().call_later(self.settings.reconnect_grace, lost)
        self._graces.add(handle)

    def credit_changed(self, connection: Connection) -> None:
        """A worker can take more: look where runs wait, if any of its tasks may."""
        if self._commits.has_backlog(connection.namespace, connection.tasks, connection.version):
            self.send(m.Look(connection.namespace))

    # --- after each commit, and by the clock -------------------------------------------------------------------------

    def _offers(self) -> dict[str, list[Offer]]:
        offers: dict[str, list[Offer]] = {}
        for connection in self._connections.values():
            offer = connection.offer()
            if offer is not None:
                offers.setdefault(offer.namespace, []).append(offer)
        return offers

    def _after_commit(self, commits: list[Committed]) -> None:
        for committed in commits:
            namespace = committed.namespace
            for session, run_id in committed.let_go:
                connection = self._connections.get(session)
                if connection is not None:
                    connection.told.pop(run_id, None)
            for session in {**committed.deliveries, **committed.acknowledged}:
                connection = self._connections.get(session)
                if connection is not None:
                    self._deliver(connection, committed)
                else:
                    self._replicas.session(namespace, session)
            self._replicas.left(namespace, committed.left)
            if committed.left.events:
                self._commits.drain_events()
            if committed.left.again:
                self.send(m.Look(namespace))
            if committed.ended:
                self._replicas.ended(namespace, [run_id for run_id, *_ in committed.ended])
            for session in committed.ended_sessions:
                self._world.worker_names.pop(session, None)
                connection = self._connections.get(session)
                if connection is not None:
                    connection.close("the session has ended")
            if committed.created:
                self.watchers.created(namespace, committed.created)
            if committed.ended:
                self.watchers.ended(namespace, committed.ended)
                for run_id, *_ in committed.ended:
                    self._timers.forget(namespace, run_id)
            if committed.touched:
                self.watchers.changed(namespace, committed.touched)
            if committed.timed:
                self._timers.add(namespace, committed.timed)
            if committed.timed_tokens:
                self._token_timers.add(namespace, committed.timed_tokens)
            if committed.timed_queues:
                self._queue_timers.add(namespace, [(at, name.encode()) for at, name in committed.timed_queues])
            if committed.timed_schedules:
                self._schedule_timers.add(namespace, committed.timed_schedules)

    def _deliver(self, connection: Connection, committed: Committed) -> None:
        session = connection.session
        try:
            connection.deliver(committed.deliveries.get(session), committed.acknowledged.get(session, 0))
        except Exception:
            log.exception("what a commit brought cannot be sent worker=%s", connection.worker)
            self._opened_at.pop(connection, None)
            connection.close("what a commit brought could not be sent")

    def _runs_due(self, due: dict[str, list[bytes]]) -> None:
        for namespace, run_ids in due.items():
            self._commits.ring(namespace, run_ids)

    def _tokens_due(self, due: dict[str, list[bytes]]) -> None:
        for namespace, token_ids in due.items():
            self.send(m.TokensDue(namespace, token_ids))

    def _queues_due(self, due: dict[str, list[bytes]]) -> None:
        for namespace, names in due.items():
            self.send(m.Look(namespace, [name.decode() for name in names]))

    def _schedules_due(self, due: dict[str, list[bytes]]) -> None:
        for namespace, schedule_ids in due.items():
            for at in range(0, len(schedule_ids), SCHEDULES_AT_ONCE):
                self.send(m.SchedulesDue(namespace, schedule_ids[at : at + SCHEDULES_AT_ONCE]))

    def _time_schedules(self, _now: int, soon: list[Any]) -> None:
        """Time what a look has found: instants that no living replica may know of, and those that are late already."""
        for namespace, schedule_id, next_at in soon:
            self._schedule_timers.add(namespace, [(next_at, schedule_id)])

    def _close_connections(self) -> None:
        for connection in list(self._connections.values()):
            connection.close("what a commit brought may be lost")

    # --- other replicas ----------------------------------------------------------------------------------------------

    def _session_has_news(self, namespace: str, session: bytes) -> None:
        connection = self._connections.get(session)
        if connection is not None:
            self._later(self._catch_up(connection))

    async def _catch_up(self, connection: Connection) -> None:
        command = m.CatchUp(connection.namespace, connection.session, connection.connection_no, connection.told)
        if not await self.do(command) and self._connections.get(connection.session) is connection:
            connection.close("the session has connected elsewhere, or has ended", SUPERSEDED)

    def _queued_elsewhere(self, namespace: str) -> None:
        self._commits.expect_backlog(namespace)
        self._look_for_work(namespace)

    def _left_elsewhere(self, namespace: str, left: m.Left) -> None:
        self._commits.hear(namespace, left)
        self._look_for_work(namespace)

    def _look_for_work(self, namespace: str) -> None:
        """Have a commit look where runs wait, if a worker here has room. If none has, the one that gets some looks."""
        offers = (one.offer() for one in self._connections.values() if one.namespace == namespace)
        if any(offer is not None and offer.slots > 0 for offer in offers):
            self.send(m.Look(namespace))

    def _ended_elsewhere(self, namespace: str, run_ids: list[bytes]) -> None:
        watched = self.watchers.heard(namespace, run_ids)
        if watched and namespace in self._heard:
            self._heard[namespace] += watched
        elif watched:
            self._heard[namespace] = watched
            self._later(self._notice_heard(namespace))

    async def _notice_heard(self, namespace: str) -> None:
        """One read at a time: the ends that are heard of meanwhile are read together by the next one. If one fails, the
        look finds them."""
        try:
            while watched := self._heard[namespace]:
                self._heard[namespace] = []
                await self._notice_ends(namespace, watched)
        finally:
            del self._heard[namespace]

    async def _notice_ends(self, namespace: str, watched: list[bytes]) -> None:
        for at in range(0, len(watched), NOTICED_AT_ONCE):
            part = watched[at : at + NOTICED_AT_ONCE]
            found = await self.read(reads.ended_watched, namespace, part, RECENT_BYTES)
            self.watchers.noticed(namespace, found)

    def _told(self, session: bytes, run_id: bytes) -> int:
        connection = self._connections.get(session)
        return 0 if connection is None else connection.told.get(run_id, 0)

    def _heeds_after(self, session: bytes) -> bool:
        connection = self._connections.get(session)
        return connection is not None and connection.heeds_after

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except PUT_OFF as error:
                log.debug("look failed error=%s", error)  # the look of the next second covers it
            except Exception:
                log.exception("look failed")

        task = asyncio.get_running_loop().create_task(guarded())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look(self) -> None:
        """Each second: what nobody else would move, and what other replicas have ended."""
        watched_before: dict[str, set[bytes]] = {}
        while True:
            await asyncio.sleep(self.settings.look_pause)
            steady = self._commits.steady_since
            # Leases are judged only by a replica that has itself committed without a gap for a whole lease: after an
            # outage the workers must have had their chance to renew.
            may_expire = steady is not None and time.monotonic() - steady > self.settings.lease
            try:
                self._time_schedules(*await self.do(m.Tick(expire_sessions=may_expire)))
                await self._replicas.count()
                for namespace in {connection.namespace for connection in self._connections.values()}:
                    if self._replicas.others or not self._commits.is_backlog_known(namespace):
                        self._queued_elsewhere(namespace)
                    elif self._commits.has_strays(namespace):
                        self.send(m.Look(namespace))
                if self._replicas.others:
                    for connection in list(self._connections.values()):
                        await self._catch_up(connection)
                watched = self.watchers.watched()
                for namespace, run_ids in watched.items():
                    # Those that were watched a look ago. Most end before that, and whoever ends them says so.
                    lasting = watched_before.get(namespace, ())
                    await self._notice_ends(namespace, [run_id for run_id in run_ids if run_id in lasting])
                watched_before = {namespace: set(run_ids) for namespace, run_ids in watched.items()}
            except asyncio.CancelledError:
                raise
            except PUT_OFF as error:
                log.debug("look failed error=%s", error)
            except Exception:
                log.exception("look failed")
