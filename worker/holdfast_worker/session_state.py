"""The worker's end of the protocol as a pure state machine: no I/O, no clock, no randomness.

Whoever drives it (the supervisor, a simulation) feeds it what arrived and the monotonic time in seconds, sends the
frames that `next_frame` yields whenever the stream can take one, and passes the returned `Posts` to the executors.

What it knows:
- When the lease ends without contact the worker *holds*: the stream is given up, nothing is started or stopped.
  After `hold` more, bodies are let go of and their runs handed back.
- Reports stay until they are committed and are sent again, same frames and numbers, on every new connection.
- A run is held until its last report is committed: not listing it after a reconnect would give it to somebody else.
- A Park counts only when committed, and only if no settlement was passed on that the body had not seen when it parked.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable

from holdfast.v1.worker_service_pb2 import (
    Canceled,
    CheckpointPage,
    ConnectRequest,
    ConnectResponse,
    Credit,
    Delivery,
    Drop,
    Goodbye,
    Held,
    HeldAnswer,
    HeldRun,
    Hello,
    Lost,
    Refusal,
    RefusalReason,
    Released,
    Renew,
    Renewed,
    Report,
    Resume,
    Start,
    Welcome,
)
from holdfast_worker.lease import Lease, seconds
from holdfast_worker.parcels import Parcels, Posts
from holdfast_worker.report_buffer import (
    HARD_FRAME_BYTES,
    Chunk,
    Frame,
    Mark,
    ReportBuffer,
    failure_of_too_large,
    largest_report,
)
from holdfast_worker.run_table import Body, Phase, RunTable, Seat

log = logging.getLogger(__name__)

HELD_RUNS_PER_FRAME = 10_000
"""Runs in one Held frame: about 300 KiB."""
PING_MARGIN_S = 5.0
"""An executor that was told to cancel or drop must show a living event loop within the cancel grace and this."""
DEFAULT_GRACE_S = 30.0
"""Cancel grace while no scheduler has dictated one."""

_BODY_IS_STOPPED = frozenset({RefusalReason.REFUSAL_REASON_STALE_FENCE, RefusalReason.REFUSAL_REASON_ENDED})


class SessionState:
    """One worker process, over all its connections and sessions. `hello` is without session and slots as announced."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._table = RunTable()
        self._buffer = ReportBuffer()
        self._control: deque[ConnectRequest] = deque()
        self._terms: Welcome | None = None
        self._connected = False
        self._exchanging = False  # Held is sent or about to be, HeldAnswer has not come.
        self._hard_limit = HARD_FRAME_BYTES

        self._lease = Lease()
        self._grace_s = DEFAULT_GRACE_S
        self._start_seq = 0
        self._told = (0, 0)  # (slots, places) free as the scheduler must believe
        self._draining = False
        self._drain_until = math.inf
        self._leaving = False
        self._said_goodbye = False

        self._pings: dict[int, tuple[int, float]] = {}  # executor -> (nonce, answer due)
        self._ping_nonce = 0

    # -- what the driver asks

    @property
    def is_connected(self) -> bool:
        """Whether a connection was welcomed and has not ended."""
        return self._connected

    @property
    def has_executors(self) -> bool:
        """Whether an executor lives that has said which tasks it has."""
        return bool(self._table.seats)

    @property
    def is_holding(self) -> bool:
        """Whether the lease ended without contact."""
        return self._lease.is_holding

    @property
    def is_drained(self) -> bool:
        """Whether nothing executes and nothing is left to be told."""
        return not self._table.executing and not self._buffer

    @property
    def is_full(self) -> bool:
        """Whether so many reports wait for the scheduler that executors must be made to wait."""
        return self._buffer.is_full

    @property
    def executing(self) -> int:
        """Bodies that take a slot."""
        return self._table.executing

    @property
    def held(self) -> int:
        """Runs held, parked ones included."""
        return len(self._table.bodies)

    def hello(self) -> Hello:
        """The first frame of a new connection."""
        hello = Hello()
        hello.CopyFrom(self._hello)
        if self._terms is not None:
            hello.session_id = self._terms.session_id
            hello.session_secret = self._terms.session_secret
        return hello

    def deadline(self) -> float:
        """When `tick` has something to do next; infinity for never."""
        pings = [answer_due for _, answer_due in self._pings.values()]
        return min(self._drain_until, self._lease.deadline(self._connected), *pings)

    def is_renewal_due(self, now: float) -> bool:
        """Whether `next_frame` would renew the lease."""
        return self._connected and now >= self._lease.renew_at

    def next_frame(self, now: float) -> ConnectRequest | None:
        """The next frame for the stream, or None when there is nothing to say. The caller sends it at once."""
        if not self._connected or self._said_goodbye:
            return None
        if self._leaving:
            self._said_goodbye = True
            return ConnectRequest(goodbye=Goodbye())
        if self._control:
            return self._control.popleft()
        if now >= self._lease.renew_at:
            return ConnectRequest(renew=Renew(nonce=self._lease.renewal(now)))
        frame = self._buffer.next_frame(self._hard_limit)
        if frame is not None:
            if not self._exchanging:
                frame.reports.credit.CopyFrom(self._credit())
            return frame
        if not self._exchanging and self._free() != self._told:
            return ConnectRequest(credit=self._credit())
        return None

    def leave(self) -> None:
        """Make the next frame Goodbye, which ends the session. Nothing is said after it."""
        self._leaving = True

    # -- the connection

    def welcomed(self, welcome: Welcome, hello_sent_at: float, now: float) -> Posts:
        """A connection was accepted. It takes the place of any other."""
        parcels = Parcels()
        if self._terms is None:
            for seat in self._table.seats:
                parcels.to(seat).others.append(ConnectResponse(welcome=welcome))
        elif not welcome.resumed:
            log.warning("event=session_replaced dropped=%d reason=the_scheduler_did_not_know_it", self.held)
        self._terms = welcome
        self._connected = True
        self._lease.grant(welcome, hello_sent_at, now)
        self._grace_s = seconds(welcome.cancel_grace)
        self._hard_limit = min(HARD_FRAME_BYTES, welcome.limits.frame_bytes or HARD_FRAME_BYTES)
        self._start_seq = 0
        self._told = (0, 0)
        self._control.clear()
        self._exchanging = welcome.resumed
        if welcome.resumed:
            self._buffer.rewind()
            self._control.extend(self._held_frames())
        else:
            self._forget(parcels, "session replaced", now)
        return parcels.posts()

    def disconnected(self) -> None:
        """The connection ended. The lease goes on."""
        self._connected = False
        self._exchanging = False
        self._control.clear()

    def session_unknown(self, now: float) -> Posts:
        """The scheduler does not know the session: whatever it held belongs to others. The next Hello asks for a new
        one."""
        parcels = Parcels()
        self.disconnected()
        if self._terms is not None:
            log.warning("event=session_unknown dropped=%d", self.held)
            self._forget(parcels, "session unknown", now)
            # Terms stay for executors that start meanwhile; the id goes.
            terms = Welcome()
            terms.CopyFrom(self._terms)
            terms.ClearField("session_id")
            terms.ClearField("session_secret")
            self._terms = terms
        return parcels.posts()

    def received(self, response: ConnectResponse, now: float) -> Posts:
        """A frame of the current connection, other than Welcome and GoAway. `tick` was called with this `now`."""
        if not self._connected:
            return []
        kind = response.WhichOneof("frame")
        parcels = Parcels()
        if kind == "delivery":
            self._delivery(response, response.delivery, parcels, now)
        elif kind == "renewed":
            self._lease.renewed(response.renewed.nonce)
        elif kind == "checkpoint_page":
            self._page(response, response.checkpoint_page, parcels)
        elif kind == "held_answer":
            self._held_answer(response.held_answer, parcels, now)
        else:
            log.warning("event=frame_ignored kind=%s reason=not_known_by_this_worker", kind)
        return parcels.posts()

    # -- executors

    def executor_ready(self, executor: int, places: int) -> Posts:
        """An executor said hello with so many free places. `executor` is a number that was not used before."""
        self._table.seats[executor] = Seat(executor, places)
        return [] if self._terms is None else [(executor, [ConnectResponse(welcome=self._terms)])]

    def executor_sent(self, executor: int, request: ConnectRequest, size: int) -> Posts:
        """A frame of an executor, other than hello, of `size` bytes."""
        seat = self._table.seats.get(executor)
        if seat is None:
            return []
        kind = request.WhichOneof("frame")
        if kind == "reports":
            reports = request.reports
            posts = self._reports(executor, list(reports.reports), size, reports.frame_no)
            if reports.HasField("credit"):
                _count(seat, reports.credit)
            return posts
        if kind == "credit":
            _count(seat, request.credit)
        elif kind == "renew":
            ping = self._pings.get(executor)
            if ping is not None and ping[0] == request.renew.nonce:
                del self._pings[executor]
        else:
            log.warning("event=frame_ignored executor=%d kind=%s", executor, kind)
        return []

    def executor_left(self, executor: int, evidence: str, is_exit_0: bool) -> tuple[bool, int]:
        """An executor is gone. Returns whether it left on purpose, and how many runs were in it.

        It did when it exits with 0 after it had told that it takes no more bodies: then nothing executed in it, and a
        Start that crossed its last words was never begun and costs no recovery. Otherwise its runs are lost. Parked
        ones are reported too: the scheduler must not count on them any longer.
        """
        seat = self._table.seats.get(executor)
        on_purpose = is_exit_0 and seat is not None and seat.places == 0
        self._pings.pop(executor, None)
        bodies = [body for body in self._table.close_seat(executor) if body.phase is not Phase.ENDING]
        for body in bodies:
            never_begun = on_purpose and body.phase is Phase.EXECUTING
            self._hand_back([body], None if never_begun else evidence)
        return on_purpose, len(bodies)

    def executor_leaves(self, executor: int, now: float) -> Posts:
        """An executor is full of parked bodies and takes no more: it ends when nothing executes in it.

        What is parked in it is handed back now, and what parks in it later then, so that nothing is continued there
        and its end is near. Those runs wait on without a body and are re-entered elsewhere.
        """
        seat = self._table.seats.get(executor)
        if seat is None:
            return []
        seat.is_leaving = True
        parcels = Parcels()
        self._hand_back_parked(seat, parcels, now)
        return parcels.posts()

    def _hand_back_parked(self, seat: Seat, parcels: Parcels, now: float) -> None:
        bodies = self._table.bodies.values()
        parked = [body for body in bodies if body.executor == seat.number and body.phase is Phase.PARKED]
        self._stop(parked, parcels, "its executor is full and leaves", now)

    def stuck_executors(self, now: float) -> list[int]:
        """Executors that did not answer in time after a cancel or a drop. They are to be killed; each is named once."""
        stuck = [executor for executor, (_, due) in self._pings.items() if now >= due]
        for executor in stuck:
            del self._pings[executor]
        return stuck

    # -- time

    def tick(self, now: float) -> tuple[bool, Posts]:
        """Let time pass. Returns whether the lease has just ended, so that the stream must be given up, and posts."""
        parcels = Parcels()
        ended = self._lease.ends(now)
        if ended:
            self.disconnected()
            log.warning(
                "event=hold_begins held=%d executing=%d hold_s=%.1f", self.held, self.executing, self._lease.hold_s
            )
        if self._lease.hold_ends(now):
            log.warning("event=hold_ends handed_back=%d", self.held)
            self._stop(list(self._table.bodies.values()), parcels, "no contact", now)
        if now >= self._drain_until:
            self._drain_until = math.inf
            executing = [b for b in self._table.bodies.values() if b.phase in (Phase.EXECUTING, Phase.PARKING)]
            log.warning("event=drain_timeout handed_back=%d", len(executing))
            self._stop(executing, parcels, "drain", now)
        return ended, parcels.posts()

    def drain(self, now: float, timeout_s: float) -> None:
        """Take no new runs; what still executes after `timeout_s` is handed back."""
        self._draining = True
        self._drain_until = now + timeout_s

    # -- inside: the stream

    def _held_frames(self) -> Iterable[ConnectRequest]:
        runs = [HeldRun(run_id=body.run_id, fence=body.fence) for body in self._table.bodies.values()]
        for start in range(0, max(1, len(runs)), HELD_RUNS_PER_FRAME):
            end = start + HELD_RUNS_PER_FRAME
            yield ConnectRequest(held=Held(runs=runs[start:end], last=end >= len(runs)))

    def _held_answer(self, answer: HeldAnswer, parcels: Parcels, now: float) -> None:
        self._exchanging = False
        for update in answer.updates:
            self._updated(update.run_id, update.fence, update.checkpoint.settled_order)
            if (executor := self._executor(update.run_id, update.fence)) is not None:
                parcels.to(executor).updates.append(update)
        for cancel in answer.cancels:
            if (executor := self._executor(cancel.run_id, cancel.fence)) is not None:
                parcels.to(executor).cancels.append(cancel)
                self._ping(executor, parcels, now)
        for drop in answer.drops:
            self._dropped(drop, parcels, now)

    def _free(self) -> tuple[int, int]:
        """(slots, places) free for the scheduler."""
        if self._draining:
            return 0, 0
        table = self._table
        return max(0, self._hello.slots - table.executing), table.free_places

    def _credit(self) -> Credit:
        slots, places = self._told = self._free()
        return Credit(free_slots=slots, after_start_seq=self._start_seq, free_places=places)

    # -- inside: deliveries

    def _delivery(self, response: ConnectResponse, delivery: Delivery, parcels: Parcels, now: float) -> None:
        # In the order of the fields: the Parked rule needs updates before commits, a restart its commit before it.
        for update in delivery.updates:
            self._updated(update.run_id, update.fence, update.checkpoint.settled_order)
            if (executor := self._executor(update.run_id, update.fence)) is not None:
                parcels.to(executor).updates.append(update)
        if delivery.HasField("committed"):
            refused = delivery.committed.refused
            refusals = list(refused) if refused else []
            self._committed(delivery.committed.up_to, refusals, parcels, now)
        for cancel in delivery.cancels:
            if (executor := self._executor(cancel.run_id, cancel.fence)) is not None:
                parcels.to(executor).cancels.append(cancel)
                self._ping(executor, parcels, now)
        for drop in delivery.drops:
            self._dropped(drop, parcels, now)
        for resume in delivery.resumes:
            self._resume(resume, parcels)
        if delivery.starts:
            for start in delivery.starts:
                self._start(start, parcels)

    def _updated(self, run_id: bytes, fence: int, order: int) -> None:
        body = self._table.bodies.get(run_id)
        if body is not None and body.fence == fence and order > body.settled:
            body.settled = order

    def _executor(self, run_id: bytes, fence: int) -> int | None:
        """The executor that has the body of this run under this fence."""
        body = self._table.bodies.get(run_id)
        return body.executor if body is not None and body.fence == fence else None

    def _committed(self, up_to: int, refusals: list[Refusal], parcels: Parcels, now: float) -> None:
        frames = self._buffer.committed(up_to)
        for refusal in refusals:
            self._refused(refusal, parcels)
        for frame in frames:
            for executor, number in frame.origins.items():
                parcels.to(executor).up_to = number
            self._settle_marks(frame)
        for seat in self._table.seats.values():
            if seat.is_leaving:
                self._hand_back_parked(seat, parcels, now)

    def _settle_marks(self, frame: Frame) -> None:
        table = self._table
        for run_id, fence, number in frame.marks:
            body = table.bodies.get(run_id)
            if body is None or body.fence != fence or body.mark != number:
                continue
            if body.phase is Phase.ENDING:
                table.remove(run_id)
            elif body.phase is Phase.PARKING:
                table.move(body, Phase.PARKED if body.settled <= body.park_seen else Phase.EXECUTING)

    def _refused(self, refusal: Refusal, parcels: Parcels) -> None:
        reason = refusal.reason
        log.info(
            "event=report_refused run=%s fence=%d number=%d reason=%s message=%r",
            refusal.run_id.hex(), refusal.fence, refusal.number, RefusalReason.Name(reason), refusal.message,
        )  # fmt: skip
        body = self._table.bodies.get(refusal.run_id)
        if body is None or body.fence != refusal.fence:
            return
        if body.executor is not None:
            parcels.to(body.executor).refused.append(refusal)
        if reason in _BODY_IS_STOPPED:
            self._table.remove(body.run_id)
        elif body.mark == refusal.number:
            self._refused_mark(body, refusal)

    def _refused_mark(self, body: Body, refusal: Refusal) -> None:
        """A Park or a last report did not count."""
        if body.executor is not None:
            self._table.move(body, Phase.EXECUTING)
        elif refusal.reason == RefusalReason.REFUSAL_REASON_CANCELING:
            # The body is gone and the run is being canceled: so this is how it ends.
            self._conclude(body, Report(canceled=Canceled()))
        elif not body.handed_back:
            self._hand_back([body], f"the executor died and its last report was refused: {refusal.message}")
        else:
            log.error("event=hand_back_refused run=%s message=%r", body.run_id.hex(), refusal.message)
            self._table.remove(body.run_id)

    def _dropped(self, drop: Drop, parcels: Parcels, now: float) -> None:
        body = self._table.bodies.get(drop.run_id)
        if body is None or body.fence > drop.fence:
            return
        log.info("event=drop run=%s fence=%d reason=%r", drop.run_id.hex(), body.fence, drop.reason)
        if body.executor is not None:
            parcels.to(body.executor).drops.append(drop)
            if body.phase is Phase.EXECUTING:
                self._ping(body.executor, parcels, now)
        self._table.remove(drop.run_id)

    def _resume(self, resume: Resume, parcels: Parcels) -> None:
        self._start_seq = max(self._start_seq, resume.start_seq)
        self._told = (self._told[0] - 1, self._told[1])
        body = self._table.bodies.get(resume.run_id)
        if body is not None and body.fence >= resume.fence:
            return
        # A Resume proves that the Park was committed; its acknowledgement may have been lost with a connection.
        is_here = body is not None and body.phase in (Phase.PARKING, Phase.PARKED)
        executor = body.executor if body is not None and is_here else None
        if executor is None:
            log.warning("event=resume_without_body run=%s fence=%d", resume.run_id.hex(), resume.fence)
            self._decline(resume.run_id, resume.fence)
            return
        settled = max((checkpoint.settled_order for checkpoint in resume.settled), default=0)
        self._table.add(Body(resume.run_id, resume.fence, executor, settled=settled))
        parcels.to(executor).resumes.append(resume)

    def _start(self, start: Start, parcels: Parcels) -> None:
        run_id = start.run_id
        self._start_seq = max(self._start_seq, start.start_seq)
        self._told = (self._told[0] - 1, self._told[1] - 1)
        table = self._table
        old = table.bodies.get(run_id)
        if old is not None and old.fence >= start.fence:
            return
        seat = None if self._draining else table.choose_seat()
        if old is not None and old.executor is not None and (seat is None or old.executor != seat.number):
            parcels.to(old.executor).drops.append(Drop(run_id=run_id, fence=old.fence, reason="started anew"))
        if seat is None:
            log.info("event=start_declined run=%s fence=%d draining=%s", run_id.hex(), start.fence, self._draining)
            self._decline(run_id, start.fence)
            return
        seat.sent_starts += 1
        table.add(Body(run_id, start.fence, seat.number, settled=start.settled_order))
        parcels.to(seat.number).starts.append(start)

    def _page(self, response: ConnectResponse, page: CheckpointPage, parcels: Parcels) -> None:
        executor = self._executor(page.run_id, page.fence)
        if executor is not None:
            parcels.to(executor).others.append(response)

    # -- inside: reports

    def _reports(self, executor: int, reports: list[Report], size: int, frame_no: int) -> Posts:
        parcels = Parcels()
        if size > largest_report(self._hard_limit):
            reports = [self._bounded(report, parcels, executor) for report in reports]
            size = sum(report.ByteSize() for report in reports)
        bodies = self._table.bodies
        kept: list[Report] = []
        marks: list[Mark] = []
        for report in reports:
            body = bodies.get(report.run_id)
            # What a body says that was dropped, or resumed meanwhile under a higher fence, interests nobody.
            if body is None or body.fence != report.fence or body.executor != executor:
                continue
            kept.append(report)
            body.number = report.number
            transition = report.WhichOneof("transition")
            if transition is None or transition == "wake":
                continue
            body.mark = report.number
            marks.append((report.run_id, report.fence, report.number))
            if transition == "park":
                body.park_seen = report.park.seen_settled
                self._table.move(body, Phase.PARKING)
            else:
                self._table.move(body, Phase.ENDING)
        if kept:
            self._buffer.add(Chunk(kept, size, marks, (executor, frame_no)), self._hard_limit)
        return parcels.posts()

    def _bounded(self, report: Report, parcels: Parcels, executor: int) -> Report:
        """The report, or in place of one that no frame can carry the failure of its attempt."""
        size = report.ByteSize()
        limit = largest_report(self._hard_limit)
        if size <= limit:
            return report
        log.error("event=report_too_large run=%s bytes=%d limit=%d", report.run_id.hex(), size, limit)
        failure = failure_of_too_large(report, size, limit)
        reason = failure.failed.error.message
        parcels.to(executor).drops.append(Drop(run_id=report.run_id, fence=report.fence, reason=reason))
        return failure

    def _conclude(self, body: Body, report: Report) -> None:
        """Make the last report of a run whose body is gone."""
        self._table.leave_seat(body)
        body.number += 1
        body.mark = body.number
        report.run_id = body.run_id
        report.fence = body.fence
        report.number = body.number
        self._buffer.add(Chunk([report], report.ByteSize(), [(body.run_id, body.fence, body.number)]), self._hard_limit)

    def _hand_back(self, bodies: Iterable[Body], evidence: str | None) -> None:
        """Report runs lost when there is evidence, else released."""
        for body in bodies:
            body.handed_back = True
            if evidence is None:
                self._conclude(body, Report(released=Released()))
            else:
                self._conclude(body, Report(lost=Lost(evidence=evidence)))

    def _decline(self, run_id: bytes, fence: int) -> None:
        body = Body(run_id, fence, None, Phase.ENDING)
        self._table.add(body)
        self._hand_back([body], None)

    # -- inside: letting go

    def _forget(self, parcels: Parcels, reason: str, now: float) -> None:
        """Drop everything and report nothing."""
        for body in list(self._table.bodies.values()):
            self._dropped(Drop(run_id=body.run_id, fence=body.fence, reason=reason), parcels, now)
        self._buffer.clear()

    def _stop(self, bodies: Iterable[Body], parcels: Parcels, reason: str, now: float) -> None:
        """Stop bodies and hand their runs back."""
        stopped = [body for body in bodies if body.phase is not Phase.ENDING]
        for body in stopped:
            assert body.executor is not None
            parcels.to(body.executor).drops.append(Drop(run_id=body.run_id, fence=body.fence, reason=reason))
        self._hand_back(stopped, None)

    def _ping(self, executor: int, parcels: Parcels, now: float) -> None:
        """Ask for a sign of life of the executor's event loop; an open question stays as it is."""
        if executor not in self._pings:
            self._ping_nonce += 1
            self._pings[executor] = (self._ping_nonce, now + self._grace_s + PING_MARGIN_S)
            parcels.to(executor).others.append(ConnectResponse(renewed=Renewed(nonce=self._ping_nonce)))


def _count(seat: Seat, credit: Credit) -> None:
    seat.places = credit.free_places
    seat.counted_starts = credit.after_start_seq
