"""The one stream between a worker process and this scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from holdfast.v1 import worker_service_pb2 as w
from holdfast.v1 import worker_service_pb2_grpc
from holdfast_scheduler import ids
from holdfast_scheduler import model as m
from holdfast_scheduler.convert import check_text, namespace_from, queue_limits
from holdfast_scheduler.definitions import VERSION_POLICIES, task_row
from holdfast_scheduler.dispatch import Offer
from holdfast_scheduler.engine import SUPERSEDED, Engine
from holdfast_scheduler.errors import RefusedError, StorageUnavailableError, invalid
from holdfast_scheduler.model import Delivery, ItemFault
from holdfast_scheduler.schedule_messages import check_declared
from holdfast_scheduler.settings import PROTOCOL_MAJOR, PROTOCOL_MINOR
from holdfast_scheduler.version import VERSION
from holdfast_scheduler.worker_frames import FEATURES, duration, frames, held_answer, report

log = logging.getLogger("holdfast.scheduler")

HELLO_TIMEOUT: Final = 10.0
"""Seconds within which a new stream must say who it is."""
TASKS_LIMIT: Final = 10_000
"""Tasks of one worker."""
HELD_LIMIT: Final = 100_000
"""Runs that a reconnecting worker may list."""
OUTBOX_LIMIT: Final = 1_000
"""Frames that may wait for a worker which reads slowly; beyond it gets no new work until it has read them."""

FAILED_PRECONDITION: Final = 9
UNAUTHENTICATED: Final = 16
UNAVAILABLE: Final = 14


class _Stream:
    """One connection of a session: what is to be sent, and what the worker can take."""

    def __init__(
        self,
        session: bytes,
        namespace: str,
        worker: str,
        version: str,
        tasks: frozenset[str],
        features: frozenset[str],
        now: Callable[[], int],
    ) -> None:
        self.session = session
        self.namespace = namespace
        self.worker = worker
        self.version = version
        self.tasks = tasks
        self.heeds_after = "after" in features
        self._now = now  # the database's clock
        self.connection_no = 0
        self.is_reconciled = True
        self.close_reason = ""
        self.close_kind = ""
        self.told: dict[bytes, int] = {}  # run that the worker holds → highest settled_order sent
        self._outbox: list[w.ConnectResponse] = []
        self._filled = asyncio.Event()
        self._free_slots = 0
        self._free_places = 0
        self._start_seq = 0  # of the last start sent
        self._after_start_seq = 0  # of the last start that the worker had counted

    # --- for the engine ----------------------------------------------------------------------------------------------

    def offer(self) -> Offer | None:
        """What the worker can take now: its absolute credit less what was sent since it counted."""
        on_the_way = self._start_seq - self._after_start_seq
        is_open = self.is_reconciled and len(self._outbox) < OUTBOX_LIMIT
        slots = self._free_slots - on_the_way if is_open else 0
        places = self._free_places - on_the_way
        return Offer(self.session, self.namespace, self.connection_no, self.tasks, self.version, slots, places)

    def deliver(self, delivery: Delivery | None, acknowledged: int) -> None:
        """Queue what a commit brought."""
        if delivery is None:
            delivery = Delivery()
        if not (delivery.answers_held or self.is_reconciled):
            return  # nothing was offered; what else there is, the end of the reconnect exchange tells
        for run_id, _fence, checkpoint in delivery.updates:
            self.told[run_id] = max(self.told.get(run_id, 0), checkpoint.settled_order)
        for run_id, _fence, _reason in delivery.drops:
            self.told.pop(run_id, None)
        if delivery.answers_held:
            self.is_reconciled = True
            self.put(held_answer(delivery))
        for frame in frames(delivery, acknowledged, self._start_seq + 1, self._now()):
            self.put(frame)
        for order in (*delivery.resumes, *delivery.starts):
            self.told[order.run.id] = order.run.settled
        self._start_seq += len(delivery.resumes) + len(delivery.starts)

    def close(self, reason: str, kind: str = "SHUTTING_DOWN") -> None:
        """End the stream; `kind` is the ErrorReason that the worker gets."""
        if not self.close_reason:
            self.close_reason, self.close_kind = reason, kind
        self._filled.set()

    # --- for the service ---------------------------------------------------------------------------------------------

    def put(self, frame: w.ConnectResponse) -> None:
        """Queue a frame."""
        self._outbox.append(frame)
        self._filled.set()

    def take_credit(self, credit: w.Credit) -> None:
        """The worker counted."""
        self._free_slots = credit.free_slots
        self._free_places = credit.free_places
        self._after_start_seq = credit.after_start_seq

    @property
    def is_finished(self) -> bool:
        """Whether it was closed and everything was sent."""
        return bool(self.close_reason) and not self._outbox

    async def next_frames(self) -> list[w.ConnectResponse]:
        """What is to be sent next; empty when the stream is to end."""
        while not self._outbox and not self.close_reason:
            self._filled.clear()
            await self._filled.wait()
        taken, self._outbox = self._outbox, []
        return taken


class WorkerService(worker_service_pb2_grpc.WorkerServiceServicer):
    """Serves WorkerService; one `_Stream` per connected worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._streams: set[_Stream] = set()

    def announce_stop(self) -> None:
        """Tell every connected worker to connect elsewhere."""
        frame = w.ConnectResponse(go_away=w.GoAway(within=duration(self._engine.settings.stop_grace)))
        for stream in self._streams:
            stream.put(frame)

    def close_streams(self) -> None:
        """End every stream: the scheduler stops."""
        for stream in list(self._streams):
            stream.close("the scheduler is stopping")

    async def Connect(
        self, request_iterator: AsyncIterator[w.ConnectRequest], context: Any
    ) -> AsyncIterator[w.ConnectResponse]:
        """Serve one stream until either end closes it."""
        hello = await self._hello(request_iterator)
        stream, definitions, welcome = await self._begin(hello)
        engine = self._engine
        engine.connect(stream, definitions)
        self._streams.add(stream)
        log.info(
            "worker connected worker=%s session=%s resumed=%s", stream.worker, stream.session.hex(), welcome.resumed
        )
        goodbye = False
        reader = asyncio.ensure_future(self._read(stream, request_iterator))
        reader.add_done_callback(lambda _: stream.close("the worker closed the stream"))
        try:
            yield w.ConnectResponse(welcome=welcome)
            while True:
                for frame in await stream.next_frames():
                    yield frame
                if stream.is_finished:
                    break
            if not reader.done():
                code = FAILED_PRECONDITION if stream.close_kind == "SESSION_UNKNOWN" else UNAVAILABLE
                raise RefusedError(ItemFault(code, stream.close_kind, stream.close_reason))
            goodbye = reader.result()
        finally:
            reader.cancel()
            self._streams.discard(stream)
            engine.disconnect(stream, stream.connection_no, goodbye=goodbye)
            log.info(
                "worker disconnected worker=%s session=%s goodbye=%s", stream.worker, stream.session.hex(), goodbye
            )

    async def _hello(self, requests: AsyncIterator[w.ConnectRequest]) -> w.Hello:
        try:
            first = await asyncio.wait_for(anext(requests), HELLO_TIMEOUT)
        except (TimeoutError, StopAsyncIteration):
            raise _violation("the first frame of a stream must be hello, within 10 s") from None
        if first.WhichOneof("frame") != "hello":
            raise _violation(f"the first frame of a stream must be hello, not {first.WhichOneof('frame')}")
        hello = first.hello
        if hello.protocol_major != PROTOCOL_MAJOR:
            raise RefusedError(
                ItemFault(
                    FAILED_PRECONDITION,
                    "PROTOCOL_MISMATCH",
                    f"the worker speaks protocol {hello.protocol_major}.{hello.protocol_minor}, this scheduler"
                    f" {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}: install the same major version of holdfast on both",
                    {"worker": str(hello.protocol_major), "scheduler": str(PROTOCOL_MAJOR)},
                )
            )
        if len(hello.tasks) > TASKS_LIMIT:
            raise invalid("tasks", f"a worker may have {TASKS_LIMIT} tasks, not {len(hello.tasks)}")
        return hello

    async def _begin(self, hello: w.Hello) -> tuple[_Stream, list[m.TaskRow], w.Welcome]:
        """Open or resume the session."""
        engine = self._engine
        limits = engine.settings.limits
        namespace = namespace_from(hello.namespace, limits)
        version = check_text("version", hello.version, limits)
        worker = check_text("worker_name", hello.worker_name, limits)
        definitions = []
        for task in hello.tasks:
            if not task.id:
                raise invalid("tasks.id", "a task needs an id")
            check_text("tasks.id", task.id, limits)
            check_text("tasks.queue.name", task.queue.name, limits)
            queue_limits("tasks.queue", task.queue, limits)
            if task.version_policy not in VERSION_POLICIES:
                raise invalid("tasks.version_policy", f'must be "latest" or "wait", not {task.version_policy!r}')
            if task.HasField("schedule"):
                check_declared(task.id, task.schedule)
            definitions.append(task_row(task.SerializeToString(deterministic=True), version, 0))
        tasks = frozenset(row.id for row in definitions)
        welcome = self._welcome()
        number = None
        if hello.session_id:
            digest = hashlib.sha256(hello.session_secret).digest()
            number = await engine.do(m.ResumeSession(namespace, hello.session_id, digest, definitions))
        if number is not None:
            welcome.resumed = True
            welcome.session_id, welcome.session_secret = hello.session_id, hello.session_secret
        else:
            welcome.session_id, welcome.session_secret = ids.new_id(), secrets.token_bytes(32)
            digest = hashlib.sha256(welcome.session_secret).digest()
            number = await engine.do(m.OpenSession(namespace, welcome.session_id, digest, worker, version, definitions))
        welcome.connection_no = number
        features = FEATURES.intersection(hello.features)
        welcome.features.extend(sorted(features))
        stream = _Stream(welcome.session_id, namespace, worker, version, tasks, features, engine.database_now)
        stream.connection_no = number
        stream.is_reconciled = not welcome.resumed
        return stream, definitions, welcome

    def _welcome(self) -> w.Welcome:
        settings = self._engine.settings
        limits = settings.limits
        return w.Welcome(
            lease=duration(settings.lease),
            renew_interval=duration(settings.renew_interval),
            hold=duration(settings.hold),
            cancel_grace=duration(settings.cancel_grace),
            server_version=VERSION,
            limits=w.Limits(
                payload_bytes=limits.payload_bytes,
                step_result_bytes=limits.step_result_bytes,
                metadata_bytes=limits.metadata_bytes,
                frame_bytes=limits.frame_bytes,
                checkpoints=limits.checkpoints,
                batch_items=limits.batch_items,
                depth=limits.depth,
            ),
        )

    async def _read(self, stream: _Stream, requests: AsyncIterator[w.ConnectRequest]) -> bool:
        """Take the worker's frames until the stream ends; whether it said goodbye."""
        engine, limits = self._engine, self._engine.settings.limits
        held: dict[bytes, int] = {}
        renewals: set[asyncio.Task[None]] = set()
        async for request in requests:
            if stream.close_kind == SUPERSEDED:
                continue  # whatever it says is said again over the newer connection
            kind = request.WhichOneof("frame")
            if kind == "reports":
                message = request.reports
                if message.HasField("credit"):
                    stream.take_credit(message.credit)
                reports = [report(one, limits, message.sent_at_us) for one in message.reports]
                engine.send(m.ApplyReports(stream.namespace, stream.session, message.frame_no, reports))
            elif kind == "credit":
                stream.take_credit(request.credit)
                engine.credit_changed(stream)
            elif kind == "renew":
                renewal = asyncio.ensure_future(self._renew(stream, request.renew.nonce))
                renewals.add(renewal)
                renewal.add_done_callback(renewals.discard)
            elif kind == "held":
                held.update((one.run_id, one.fence) for one in request.held.runs)
                if len(held) > HELD_LIMIT:
                    raise _violation(f"a worker may hold {HELD_LIMIT} runs")
                if request.held.last:
                    stream.told.update(dict.fromkeys(held, 0))
                    engine.send(m.ReconcileHeld(stream.namespace, stream.session, held))
                    held = {}
            elif kind == "goodbye":
                return True
            else:
                raise _violation(f"{kind} is not allowed here")
        return False

    async def _renew(self, stream: _Stream, nonce: int) -> None:
        try:
            is_known = await self._engine.do(m.RenewSession(stream.namespace, stream.session))
        except (RefusedError, StorageUnavailableError) as error:
            # No confirmation: the worker holds, and asks again.
            log.info("renewal failed worker=%s error=%s", stream.worker, error)
            return
        if not is_known:
            stream.close("the session has expired", "SESSION_UNKNOWN")
            return
        stream.put(w.ConnectResponse(renewed=w.Renewed(nonce=nonce)))


def _violation(message: str) -> RefusedError:
    return RefusedError(ItemFault(FAILED_PRECONDITION, "PROTOCOL_VIOLATION", message))
