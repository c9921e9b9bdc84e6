"""The executor process: loads user code, runs bodies on one event loop, and obeys the frames on its link.

    python -m holdfast_worker.executor --link-fd N [--max-bodies N] TARGET...

It is started by the supervisor, never by a person. What travels on the link is written down in `link`. Exit codes: 0 it
had kept as many abandoned bodies as it may, finished what executed and left; 2 a target cannot be loaded (one line on
standard error); 70 the supervisor is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import socket
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from google.protobuf.message import Message

from holdfast import ids, registry
from holdfast.errors import HoldfastError
from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_USER, TaskError
from holdfast.v1.run_pb2 import Checkpoint
from holdfast.v1.worker_service_pb2 import (
    REFUSAL_REASON_STALE_FENCE,
    Canceled,
    CheckpointPage,
    ConnectRequest,
    ConnectResponse,
    Credit,
    Delivery,
    Failed,
    Goodbye,
    Hello,
    Limits,
    Released,
    Renew,
    Report,
    Reports,
    Resume,
    Start,
    Welcome,
)
from holdfast_worker import creation_order, lifeline
from holdfast_worker import link as links
from holdfast_worker.body import Body, Sent, State, TaskLike, abandoned_bodies
from holdfast_worker.gate import GatedEventLoop
from holdfast_worker.lease import seconds
from holdfast_worker.report_buffer import HARD_FRAME_BYTES, failure_of_too_large, largest_report
from holdfast_worker.targets import TargetError, load_targets

MAX_BODIES: Final = 2000
"""Bodies that one executor keeps at most: executing, parked and abandoned ones."""
FRAME_BYTES: Final = 1024 * 1024
"""Reports of one turn of the loop go in frames of about this size."""
DEFAULT_GRACE_S: Final = 30.0
"""Cancel grace while no scheduler has dictated one."""
SLICE_S: Final = 0.001
"""How long a report whose body waits for its commit may wait for those of other bodies to go with. Those that have
gathered by then are committed while the others run, and the bodies do not move in step."""
CREDIT_DELAY_S: Final = 0.01
"""How long a change of the free places may wait for a report to go with."""
GC_THRESHOLD: Final = 200_000
"""Containers that may be allocated before the garbage collector looks at the young ones."""
EXIT_TARGET: Final = 2
"""Exit code when a target cannot be loaded."""
FEATURES: Final = ("after",)
"""Optional features of the protocol that it speaks."""
SDK: Final = "holdfast-python/0.1.0"

log = logging.getLogger(__name__)


class Outlet(Protocol):
    """Where frames go."""

    def send(self, *messages: Message) -> None:
        """Send frames in order, in one write."""


class Executor:
    """The bodies of one process, and the frames about them. No I/O of its own: frames come by `take`, go to `link`."""

    def __init__(self, loop: GatedEventLoop, tasks: Mapping[str, TaskLike], link: Outlet, max_bodies: int) -> None:
        self.loop = loop
        self.limits = Limits()
        self.cancel_grace_s = DEFAULT_GRACE_S
        self.bodies: dict[bytes, Body] = {}
        self._tasks = tasks
        self._link = link
        self._max_bodies = max_bodies
        self._arriving: dict[bytes, tuple[Start, list[Checkpoint]]] = {}
        """Starts whose checkpoints are not all here."""
        self._parts: dict[bytes, tuple[int, Checkpoint]] = {}
        """Run → fence and the checkpoint of a batch whose entries are not all here."""
        self._reports: list[tuple[Report, Body | None, Sent | None]] = []
        self._frames: deque[tuple[int, list[tuple[Body, Sent]]]] = deque()
        """Frames whose reports are not committed."""
        self._last_frame = 0
        self._starts = 0
        self._told_places = -1
        self._wanted_since = math.inf  # when the first body of those in `_reports` began to wait
        self._is_credit_due = False
        self._is_leaving = False
        self._has_said_goodbye = False
        loop.after_turn = self._after_turn

    def hello(self) -> Hello:
        """The first frame."""
        self._told_places = self._places()
        tasks = [task.definition() for task in self._tasks.values()]
        return Hello(tasks=tasks, sdk=SDK, slots=self._told_places, features=FEATURES)

    # -- for bodies

    def post(self, body: Body, report: Report, sent: Sent) -> None:
        self._reports.append((report, body, sent))
        self.loop.want_after_turn()
        if not sent.is_final:
            now = self.loop.time()
            self._wanted_since = min(self._wanted_since, now)
            if now - self._wanted_since > SLICE_S:
                self._send_reports()

    def has_left(self, body: Body) -> None:
        if self.bodies.get(body.run_id) is body:
            del self.bodies[body.run_id]
            self._parts.pop(body.run_id, None)
        self.loop.want_after_turn()

    # -- frames that come

    def take(self, frames: Iterable[bytes]) -> None:
        """Frames arrived, in order."""
        for frame in frames:
            message = ConnectResponse.FromString(frame)
            kind = message.WhichOneof("frame")
            if kind == "delivery":
                self._take_delivery(message.delivery)
            elif kind == "checkpoint_page":
                self._take_page(message.checkpoint_page)
            elif kind == "renewed":
                self._link.send(ConnectRequest(renew=Renew(nonce=message.renewed.nonce)))
            elif kind == "welcome":
                self._take_welcome(message.welcome)
        self.loop.want_after_turn()

    def _take_welcome(self, welcome: Welcome) -> None:
        self.limits.CopyFrom(welcome.limits)
        if welcome.HasField("cancel_grace"):
            self.cancel_grace_s = seconds(welcome.cancel_grace)

    def _take_delivery(self, delivery: Delivery) -> None:
        touched: dict[Body, None] = {}
        for update in delivery.updates:
            body = self.bodies.get(update.run_id)
            if body is not None and body.fence == update.fence:
                for checkpoint in self._whole(update.run_id, update.fence, [update.checkpoint]):
                    body.update(checkpoint)
                touched[body] = None
        if delivery.HasField("committed"):
            self._take_committed(delivery, touched)
        for body in touched:
            body.arrange()
        for cancel in delivery.cancels:
            body = self.bodies.get(cancel.run_id)
            if body is not None and body.fence == cancel.fence:
                body.cancel()
            elif self._forget_arriving(cancel.run_id, cancel.fence):
                report = Report(run_id=cancel.run_id, fence=cancel.fence, number=1, canceled=Canceled())
                self._reports.append((report, None, None))
        for drop in delivery.drops:
            body = self.bodies.get(drop.run_id)
            if body is not None and body.fence <= drop.fence:
                body.abandon()
            self._forget_arriving(drop.run_id, drop.fence)
        for resume in delivery.resumes:
            self._take_resume(resume)
        for start in delivery.starts:
            self._take_start(start)

    def _take_committed(self, delivery: Delivery, touched: dict[Body, None]) -> None:
        # A Wake that crossed its Resume is stale, but the body is still this executor's: the Resume follows.
        resumed = {resume.run_id: resume.fence for resume in delivery.resumes}
        refused = {
            (one.run_id, one.fence, one.number): one
            for one in delivery.committed.refused
            if not (one.reason == REFUSAL_REASON_STALE_FENCE and resumed.get(one.run_id, 0) > one.fence)
        }
        while self._frames and self._frames[0][0] <= delivery.committed.up_to:
            for body, sent in self._frames.popleft()[1]:
                refusal = refused.get((body.run_id, sent.fence, sent.number)) if refused else None
                if refusal is None:
                    body.committed(sent)
                else:
                    body.refused(sent, refusal)
                if body.state not in (State.ENDED, State.ABANDONED):
                    touched[body] = None

    def _take_resume(self, resume: Resume) -> None:
        body = self.bodies.get(resume.run_id)
        settled = self._whole(resume.run_id, resume.fence, resume.settled)
        after = seconds(resume.after) if resume.HasField("after") else 0.0
        if body is None or not body.resume(resume.fence, settled, after):
            report = Report(run_id=resume.run_id, fence=resume.fence, number=1, released=Released())
            self._reports.append((report, None, None))

    def _take_start(self, start: Start) -> None:
        self._starts += 1
        older = self.bodies.get(start.run_id)
        if older is not None:
            older.abandon()
        if start.more_checkpoints:
            self._arriving[start.run_id] = start, list(start.checkpoints)
        else:
            self._begin(start, start.checkpoints)

    def _take_page(self, page: CheckpointPage) -> None:
        arriving = self._arriving.get(page.run_id)
        if arriving is None or arriving[0].fence != page.fence:
            return
        arriving[1].extend(page.checkpoints)
        if page.last:
            del self._arriving[page.run_id]
            self._begin(*arriving)

    def _whole(self, run_id: bytes, fence: int, parts: Iterable[Checkpoint]) -> list[Checkpoint]:
        """The checkpoints of which all entries are here now."""
        found: list[Checkpoint] = []
        for one in parts:
            if not one.status:  # only the first part of a checkpoint says more than its number
                begun = self._parts.pop(run_id, None)
                if begun is None or begun[0] != fence or begun[1].seq != one.seq:
                    continue
                begun[1].batch_entries.extend(one.batch_entries)
                begun[1].more_batch_entries = one.more_batch_entries
                one = begun[1]
            if one.more_batch_entries:
                self._parts[run_id] = fence, one
            else:
                found.append(one)
        return found

    def _forget_arriving(self, run_id: bytes, fence: int) -> bool:
        arriving = self._arriving.get(run_id)
        if arriving is None or arriving[0].fence > fence:
            return False
        del self._arriving[run_id]
        return True

    def _begin(self, start: Start, checkpoints: Iterable[Checkpoint]) -> None:
        try:
            task = self._tasks.get(start.task_id)
            if task is None:
                raise HoldfastError(f"task {start.task_id!r} is not among the tasks that this worker has loaded")
            body = Body(self, task, start, self._whole(start.run_id, start.fence, checkpoints))
        except Exception as error:  # a Start that nobody can begin must not end the other bodies
            log.exception("event=start_failed run=%s", ids.to_text(ids.RUN, start.run_id))
            failed = Failed(error=TaskError(kind=TASK_ERROR_KIND_USER, type=type(error).__name__, message=str(error)))
            self._reports.append((Report(run_id=start.run_id, fence=start.fence, number=1, failed=failed), None, None))
            return
        self.bodies[start.run_id] = body
        body.begin()

    # -- frames that go

    def _after_turn(self) -> None:
        if self._reports:
            self._send_reports()
        elif self._places() != self._told_places and not self._is_credit_due:
            # Not at once: a body that has just begun is about to report, and its report takes the credit along.
            self._is_credit_due = True
            self.loop.call_later_neutral(CREDIT_DELAY_S, self._tell_credit)
        if self._is_leaving and not self._has_said_goodbye:
            self._has_said_goodbye = True
            self._link.send(ConnectRequest(goodbye=Goodbye()))
        if self._is_leaving and not self._frames and self._is_idle():
            # Never by a normal exit: that would run the `finally` blocks of what is parked and abandoned.
            os._exit(0)

    def _tell_credit(self) -> None:
        self._is_credit_due = False
        if self._places() != self._told_places:
            self._link.send(ConnectRequest(credit=self._credit()))

    def _send_reports(self) -> None:
        reports, self._reports = self._reports, []
        self._wanted_since = math.inf
        messages: list[ConnectRequest] = []
        size = 0
        chunk: list[Report] = []
        sents: list[tuple[Body, Sent]] = []
        largest = largest_report(self.limits.frame_bytes or HARD_FRAME_BYTES)
        for report, body, sent in reports:
            bytes_ = report.ByteSize()
            if bytes_ > largest:
                # Neither the link nor the stream could carry it, and the other bodies here must not suffer for it.
                log.error("event=report_too_large run=%s bytes=%d", ids.to_text(ids.RUN, report.run_id), bytes_)
                report = failure_of_too_large(report, bytes_, largest)
                bytes_ = report.ByteSize()
                if body is not None:
                    body.abandon()
                    body = None
            if chunk and size + bytes_ > FRAME_BYTES:
                messages.append(self._frame(chunk, sents))
                chunk, sents, size = [], [], 0
            chunk.append(report)
            size += bytes_
            if body is not None and sent is not None:
                sents.append((body, sent))
        messages.append(self._frame(chunk, sents))
        self._link.send(*messages)

    def _frame(self, reports: list[Report], sents: list[tuple[Body, Sent]]) -> ConnectRequest:
        self._last_frame += 1
        self._frames.append((self._last_frame, sents))
        return ConnectRequest(reports=Reports(frame_no=self._last_frame, reports=reports, credit=self._credit()))

    def _credit(self) -> Credit:
        self._told_places = self._places()
        return Credit(free_places=self._told_places, after_start_seq=self._starts)

    def _places(self) -> int:
        kept = abandoned_bodies()
        places = self._max_bodies - len(self.bodies) - len(self._arriving) - kept
        if places <= 0 and not self._is_leaving:
            # Full of what executes, it waits for that to end. Full of what is parked or abandoned, it would take
            # nothing new for as long as those wait, which may be days.
            parked = sum(body.state is State.PARKED for body in self.bodies.values())
            self._is_leaving = 2 * (parked + kept) >= self._max_bodies
        return 0 if self._is_leaving else max(places, 0)

    def _is_idle(self) -> bool:
        return not self._arriving and all(body.state is State.PARKED for body in self.bodies.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an executor until its link ends. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_worker.executor", description="Part of a worker.")
    parser.add_argument("--link-fd", type=int, required=True, help="descriptor of the link to the supervisor")
    most = int(os.environ.get("HOLDFAST_MAX_BODIES") or MAX_BODIES)
    parser.add_argument("--max-bodies", type=int, default=most, help="bodies kept at most (default %(default)s)")
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="a module, or a path to a .py file")
    options = parser.parse_args(arguments)
    sock = links.inherited_socket(options.link_fd)
    creation_order.install()
    lifeline.leave_with_supervisor(sock, os.getppid())
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        load_targets(options.targets)
        tasks: Mapping[str, TaskLike] = {task.id: task for task in registry.all_tasks()}
        if not tasks:
            raise TargetError(f"no task in {', '.join(options.targets)}: declare one with @task")
        for task in tasks.values():
            task.definition()
    except (TargetError, HoldfastError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_TARGET
    # What is loaded by now stays: the collector need not look at it again. A body is made of some thirty objects in
    # cycles, so at the default threshold the collector would run every few bodies; measured, that was half the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    loop = GatedEventLoop()
    asyncio.set_event_loop(loop)
    loop.create_task(_serve(loop, tasks, sock, options.max_bodies))
    loop.run_forever()
    return lifeline.EXIT_SUPERVISOR_GONE


async def _serve(loop: GatedEventLoop, tasks: Mapping[str, TaskLike], sock: socket.socket, max_bodies: int) -> None:
    early: list[bytes] = []
    executor: Executor | None = None

    def take(frames: list[bytes]) -> None:
        if executor is None:
            early.extend(frames)
        else:
            executor.take(frames)

    link = await links.open_link(sock, take, _link_ended)
    executor = Executor(loop, tasks, link, max_bodies)
    link.send(ConnectRequest(hello=executor.hello()))
    executor.take(early)


def _link_ended(error: Exception | None) -> None:
    os._exit(lifeline.EXIT_SUPERVISOR_GONE)


if __name__ == "__main__":
    # User code finds the tasks it declares in `holdfast.registry`, whatever this module is called.
    code = main()
    sys.stderr.flush()
    os._exit(code)
