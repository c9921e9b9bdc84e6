"""The worker's end of the protocol, cell by cell, under a hand-turned clock."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from holdfast.v1.run_pb2 import Checkpoint
from holdfast.v1.worker_service_pb2 import (
    Cancel,
    CheckpointPage,
    CheckpointRecord,
    CheckpointUpdate,
    Committed,
    ConnectRequest,
    ConnectResponse,
    Credit,
    Delivery,
    Drop,
    HeldAnswer,
    Hello,
    Limits,
    Park,
    Refusal,
    Renew,
    Renewed,
    Report,
    Reports,
    Resume,
    Start,
    Wake,
    Welcome,
)
from holdfast_worker import run_table, session_state
from holdfast_worker.parcels import Posts
from holdfast_worker.session_state import SessionState

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
LEASE, RENEW, HOLD, GRACE = 10, 3, 300, 30


def welcome(resumed: bool = False, frame_bytes: int = 0) -> Welcome:
    return Welcome(
        session_id=b"s" * 16,
        session_secret=b"secret",
        connection_no=1,
        resumed=resumed,
        lease=Duration(seconds=LEASE),
        renew_interval=Duration(seconds=RENEW),
        hold=Duration(seconds=HOLD),
        cancel_grace=Duration(seconds=GRACE),
        limits=Limits(frame_bytes=frame_bytes),
    )


class Worker:
    """A state machine with a scheduler's and an executor's hand on it."""

    def __init__(self, slots: int = 4, executors: int = 1, places: int = 100, frame_bytes: int = 0) -> None:
        self.now = 1000.0
        self.state = SessionState(Hello(slots=slots, worker_name="w"))
        self.frame_no: dict[int, int] = {}
        self.seq = 0
        for executor in range(1, executors + 1):
            self.state.executor_ready(executor, places)
        self.state.welcomed(welcome(frame_bytes=frame_bytes), self.now, self.now)
        self.out()

    def out(self) -> list[ConnectRequest]:
        """Everything the stream would be given now."""
        frames = []
        while (frame := self.state.next_frame(self.now)) is not None:
            copy = ConnectRequest()
            copy.CopyFrom(frame)
            frames.append(copy)
        return frames

    def reports(self) -> list[Report]:
        return [report for frame in self.out() for report in frame.reports.reports]

    def credit(self) -> tuple[int, int] | None:
        """The last credit that is told now."""
        credits = [f.reports.credit if f.HasField("reports") else f.credit for f in self.out()]
        return (credits[-1].free_slots, credits[-1].free_places) if credits else None

    def deliver(self, **parts: object) -> dict[int, list[ConnectResponse]]:
        return dict(self.state.received(ConnectResponse(delivery=Delivery(**parts)), self.now))  # type: ignore[arg-type]

    def start(self, run: bytes, fence: int = 1, settled_order: int = 0) -> dict[int, list[ConnectResponse]]:
        self.seq += 1
        start = Start(start_seq=self.seq, run_id=run, fence=fence, settled_order=settled_order)
        return self.deliver(starts=[start])

    def resume(self, run: bytes, fence: int) -> dict[int, list[ConnectResponse]]:
        self.seq += 1
        return self.deliver(resumes=[Resume(start_seq=self.seq, run_id=run, fence=fence)])

    def say(
        self, *reports: Report, executor: int = 1, size: int = 100, places: int = 100, counted: int | None = None
    ) -> Posts:
        number = self.frame_no[executor] = self.frame_no.get(executor, 0) + 1
        credit = Credit(free_places=places, after_start_seq=self.seq if counted is None else counted)
        frame = Reports(frame_no=number, reports=reports, credit=credit)
        return self.state.executor_sent(executor, ConnectRequest(reports=frame), size)

    def commit(self, up_to: int, *refused: Refusal) -> dict[int, list[ConnectResponse]]:
        return self.deliver(committed=Committed(up_to=up_to, refused=refused))

    def reconnect(self, resumed: bool = True) -> tuple[list[ConnectRequest], Posts]:
        self.state.disconnected()
        self.seq = 0
        posts = self.state.welcomed(welcome(resumed), self.now, self.now)
        return self.out(), posts

    def answer_held(self, **parts: object) -> dict[int, list[ConnectResponse]]:
        response = ConnectResponse(held_answer=HeldAnswer(**parts))  # type: ignore[arg-type]
        return dict(self.state.received(response, self.now))


def completed(run: bytes, fence: int = 1, number: int = 1) -> Report:
    report = Report(run_id=run, fence=fence, number=number)
    report.completed.SetInParent()
    return report


def park(run: bytes, fence: int = 1, number: int = 1, seen: int = 0) -> Report:
    return Report(run_id=run, fence=fence, number=number, park=Park(seen_settled=seen))


def checkpoint(run: bytes, fence: int = 1, number: int = 1, identity: str = "x") -> Report:
    return Report(run_id=run, fence=fence, number=number, records=[CheckpointRecord(seq=1, identity=identity)])


def update(run: bytes, order: int, fence: int = 1) -> CheckpointUpdate:
    return CheckpointUpdate(run_id=run, fence=fence, checkpoint=Checkpoint(seq=1, settled_order=order))


def refusal(run: bytes, reason: str, fence: int = 1, number: int = 1) -> Refusal:
    return Refusal(run_id=run, fence=fence, number=number, reason=f"REFUSAL_REASON_{reason}", message="why")


def held(frames: list[ConnectRequest]) -> list[tuple[bytes, int]]:
    return [(run.run_id, run.fence) for frame in frames for run in frame.held.runs]


# -- credit


def test_a_new_connection_tells_all_its_credit_once() -> None:
    worker = Worker.__new__(Worker)
    worker.now = 5.0
    worker.state = SessionState(Hello(slots=4))
    worker.state.executor_ready(1, 7)
    assert worker.out() == []
    worker.state.welcomed(welcome(), 5.0, 5.0)
    assert worker.credit() == (4, 7)
    assert worker.out() == []


def test_a_start_takes_a_slot_that_the_scheduler_has_counted_itself() -> None:
    worker = Worker()
    worker.start(A)
    assert worker.out() == []
    worker.say(completed(A))
    (frame,) = worker.out()
    assert (frame.reports.credit.free_slots, frame.reports.credit.after_start_seq) == (4, 1)


def test_a_park_frees_its_slot_when_it_is_committed() -> None:
    worker = Worker(slots=1)
    worker.start(A)
    worker.say(park(A), places=99)
    assert worker.credit() == (0, 99)
    worker.commit(1)
    assert worker.credit() == (1, 99)


def test_places_do_not_count_starts_that_the_executor_has_not_seen() -> None:
    worker = Worker(places=2)
    worker.start(A)
    worker.start(B)
    worker.say(checkpoint(A), places=1, counted=1)  # sent before it saw B
    assert worker.credit() == (2, 0)


def test_a_start_without_a_place_is_handed_back() -> None:
    worker = Worker(places=0)
    assert worker.start(A) == {}
    (report,) = worker.reports()
    assert (report.run_id, report.number, report.WhichOneof("transition")) == (A, 1, "released")


def test_starts_go_where_least_executes() -> None:
    worker = Worker(executors=2)
    assert [*worker.start(A)] != [*worker.start(B)]


# -- reports


def test_reports_that_wait_travel_in_one_frame_and_are_committed_by_the_executors_numbers() -> None:
    worker = Worker(executors=2)
    (one,) = worker.start(A)
    (two,) = worker.start(B)
    worker.say(checkpoint(A), executor=one)
    worker.say(checkpoint(A, number=2), executor=one)
    worker.say(checkpoint(B), executor=two)
    (frame,) = worker.out()
    assert frame.reports.frame_no == 1
    assert len(frame.reports.reports) == 3
    posts = worker.commit(1)
    assert posts[one][0].delivery.committed.up_to == 2
    assert posts[two][0].delivery.committed.up_to == 1
    assert worker.commit(1) == {}


def test_a_frame_stops_at_its_target_and_never_passes_its_limit() -> None:
    worker = Worker(frame_bytes=4000)
    worker.start(A)
    for number in range(1, 5):
        worker.say(checkpoint(A, number=number, identity="y" * 1400), size=1500)
    worker.say(
        *(checkpoint(A, number=n, identity="z" * 1000) for n in range(5, 9)), size=4200
    )  # one that has to be cut  # fmt: skip
    frames = worker.out()
    assert [r.number for f in frames for r in f.reports.reports] == [*range(1, 9)]
    assert all(frame.ByteSize() <= 4000 for frame in frames)
    last = frames[-1].reports.frame_no
    assert worker.commit(last - 1)[1][0].delivery.committed.up_to == 4
    assert worker.commit(last)[1][0].delivery.committed.up_to == 5


def test_a_report_that_no_frame_can_carry_fails_its_attempt_and_no_other() -> None:
    worker = Worker(frame_bytes=4000)
    worker.start(A)
    worker.start(B)
    posts = worker.say(checkpoint(A, identity="y" * 5000), checkpoint(B), size=5100)
    assert dict(posts)[1][0].delivery.drops[0].run_id == A
    too_large, other = worker.reports()
    assert "over the limit of 2976 bytes" in too_large.failed.error.message
    assert other == checkpoint(B)


@pytest.mark.parametrize("report", [completed(B), completed(A, fence=1)], ids=["unknown run", "older fence"])
def test_what_a_body_says_that_is_not_held_is_not_passed_on(report: Report) -> None:
    worker = Worker()
    worker.start(A, fence=2)
    worker.say(report)
    assert worker.reports() == []


def test_too_many_uncommitted_reports_make_executors_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_worker.report_buffer.MAX_BUFFERED_BYTES", 1000)
    worker = Worker()
    worker.start(A)
    worker.say(checkpoint(A), size=1001)
    assert worker.state.is_full
    worker.out()
    assert worker.state.is_full
    worker.commit(1)
    assert not worker.state.is_full


# -- refusals


@pytest.mark.parametrize("reason", ["STALE_FENCE", "ENDED"])
def test_a_refused_owner_lets_go(reason: str) -> None:
    worker = Worker()
    worker.start(A)
    worker.say(checkpoint(A))
    worker.out()
    posts = worker.commit(1, refusal(A, reason))
    assert posts[1][0].delivery.committed.refused[0].run_id == A
    assert worker.state.held == 0
    assert worker.credit() == (4, 100)


def test_a_refusal_of_an_older_fence_stops_nothing() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(park(A))
    worker.out()
    worker.commit(1)
    worker.say(Report(run_id=A, fence=1, number=2, wake=Wake()))
    worker.out()
    worker.resume(A, fence=2)
    posts = worker.commit(2, refusal(A, "STALE_FENCE", fence=1, number=2))
    assert not posts[1][0].delivery.committed.refused
    assert worker.state.executing == 1


@pytest.mark.parametrize("reason", ["CANCELING", "INVALID"])
@pytest.mark.parametrize("make", [park, completed])
def test_a_refused_park_or_end_leaves_the_body_executing(reason: str, make: object) -> None:
    worker = Worker()
    worker.start(A)
    worker.say(make(A))  # type: ignore[operator]
    worker.out()
    worker.commit(1, refusal(A, reason))
    assert worker.state.executing == 1


def test_a_hand_back_that_is_refused_for_a_cancellation_ends_the_run_canceled() -> None:
    worker = Worker()
    worker.start(A)
    worker.state.executor_left(1, "signal 9", False)
    assert worker.reports()[0].lost.evidence == "signal 9"
    worker.commit(1, refusal(A, "CANCELING"))
    (report,) = worker.reports()
    assert (report.number, report.WhichOneof("transition")) == (2, "canceled")


def test_an_end_that_is_refused_after_its_executor_died_is_reported_lost() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(completed(A))
    worker.out()
    assert worker.state.executor_left(1, "x", False) == (False, 0)
    worker.commit(1, refusal(A, "INVALID"))
    (report,) = worker.reports()
    assert report.WhichOneof("transition") == "lost"
    worker.commit(2, refusal(A, "INVALID", number=2))
    assert worker.state.held == 0


# -- parking


@pytest.mark.parametrize(("seen", "settled", "parked"), [(0, 0, True), (2, 2, True), (1, 2, False)])
def test_a_park_counts_unless_something_was_settled_that_the_body_had_not_seen(
    seen: int, settled: int, parked: bool
) -> None:
    worker = Worker()
    worker.start(A)
    worker.say(park(A, seen=seen))
    worker.out()
    # Update and commit in one Delivery: the update is taken first.
    worker.deliver(updates=[update(A, settled)] if settled else [], committed=Committed(up_to=1))
    assert worker.state.executing == (0 if parked else 1)


def test_a_second_park_is_not_settled_by_the_commit_of_the_first() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(park(A))
    worker.out()
    worker.deliver(updates=[update(A, 1)])  # the body goes on
    worker.say(park(A, number=2, seen=1))
    worker.out()
    worker.commit(1)
    assert worker.state.executing == 1
    worker.commit(2)
    assert worker.state.executing == 0


def test_a_resume_goes_to_the_body() -> None:
    worker = Worker(executors=3)
    where = {}
    for run in (A, B, C):
        (executor,) = worker.start(run)
        where[run] = executor
        worker.say(park(run), executor=executor, places=100 - executor, counted=1)
        worker.out()
        worker.commit(worker.state._buffer._next_number - 1)
    assert worker.state.executing == 0
    posts = worker.resume(B, fence=2)
    assert [*posts] == [where[B]]
    assert len({*where.values()}) == 3
    assert worker.state.executing == 1


def test_a_resume_proves_that_the_park_was_committed() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(park(A))
    worker.out()
    worker.reconnect()  # the acknowledgement was lost
    worker.answer_held()
    worker.out()
    assert [*worker.resume(A, fence=2)] == [1]
    worker.commit(1, refusal(A, "STALE_FENCE"))
    assert worker.reports() == []
    assert worker.state.executing == 1


def test_a_resume_without_a_body_is_handed_back_under_the_new_fence() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(park(A))
    worker.out()
    worker.commit(1)
    assert worker.state.executor_left(1, "exit 0", False) == (False, 1)  # parked runs are told too
    worker.resume(A, fence=2)
    lost, released = worker.reports()
    assert (lost.fence, lost.number, lost.lost.evidence) == (1, 2, "exit 0")
    assert (released.fence, released.number, released.WhichOneof("transition")) == (2, 1, "released")


def test_a_start_elsewhere_abandons_the_parked_body() -> None:
    worker = Worker(executors=2)
    (first,) = worker.start(A)
    worker.say(park(A), executor=first)
    worker.out()
    worker.commit(1)
    other = 3 - first
    worker.state.executor_sent(first, ConnectRequest(credit=Credit(free_places=0, after_start_seq=1)), 5)
    posts = worker.start(A, fence=2)
    assert posts[first][0].delivery.drops[0].fence == 1
    assert posts[other][0].delivery.starts[0].fence == 2


def test_a_repeated_or_stale_start_is_ignored() -> None:
    worker = Worker()
    worker.start(A, fence=3)
    assert worker.start(A, fence=3) == {}
    assert worker.start(A, fence=2) == {}
    assert worker.state.executing == 1


def test_pages_and_updates_go_to_the_body_of_their_fence_only() -> None:
    worker = Worker(executors=2)
    (executor,) = worker.start(A, fence=2)
    page = ConnectResponse(checkpoint_page=CheckpointPage(run_id=A, fence=2, last=True))
    assert worker.state.received(page, worker.now) == [(executor, [page])]
    stale = ConnectResponse(checkpoint_page=CheckpointPage(run_id=A, fence=1))
    assert worker.state.received(stale, worker.now) == []
    assert worker.deliver(updates=[update(A, 1, fence=1)]) == {}


# -- executors


def test_a_dead_executor_costs_only_the_runs_inside() -> None:
    worker = Worker(executors=2)
    (one,) = worker.start(A)
    worker.start(B)
    worker.say(checkpoint(A, number=4), executor=one)
    worker.state.executor_left(one, "signal 11", False)
    before, lost = worker.reports()
    assert before.number == 4
    assert (lost.run_id, lost.number, lost.lost.evidence) == (A, 5, "signal 11")
    assert worker.state.executing == 1
    worker.commit(1)
    assert worker.state.held == 1


def test_an_executor_that_leaves_on_purpose_costs_no_recovery() -> None:
    worker = Worker(places=2)
    worker.start(A)
    worker.say(park(A), places=0)
    worker.out()
    worker.commit(1)
    worker.start(B)  # declined: no place
    worker.state._table.bodies[C] = run_table.Body(C, 1, 1)  # a Start that crossed its last words
    assert worker.state.executor_left(1, "exit 0", True) == (True, 2)
    told = {report.run_id: report.WhichOneof("transition") for report in worker.reports()}
    assert told == {A: "lost", B: "released", C: "released"}


def test_an_executor_that_does_not_answer_after_a_cancel_is_stuck() -> None:
    worker = Worker()
    worker.start(A)
    posts = worker.deliver(cancels=[Cancel(run_id=A, fence=1)])
    cancel, ping = posts[1]
    assert cancel.delivery.cancels[0].run_id == A
    worker.now += GRACE + session_state.PING_MARGIN_S - 0.1
    assert worker.state.stuck_executors(worker.now) == []
    worker.now += 0.2
    assert worker.state.stuck_executors(worker.now) == [1]
    assert worker.state.stuck_executors(worker.now) == []
    assert ping.renewed.nonce


def test_an_executor_that_answers_is_not_stuck() -> None:
    worker = Worker()
    worker.start(A)
    posts = worker.deliver(drops=[Drop(run_id=A, fence=1)])
    nonce = posts[1][1].renewed.nonce
    worker.state.executor_sent(1, ConnectRequest(renew=Renew(nonce=nonce)), 5)
    assert worker.state.stuck_executors(worker.now + 1e6) == []


def test_an_executor_that_starts_later_is_greeted_at_once() -> None:
    worker = Worker()
    ((executor, (frame,)),) = worker.state.executor_ready(9, 5)
    assert (executor, frame.welcome.lease.seconds) == (9, LEASE)
    assert worker.credit() == (4, 105)


# -- cancel and drop


def test_a_drop_spares_a_higher_fence() -> None:
    worker = Worker()
    worker.start(A, fence=2)
    assert worker.deliver(drops=[Drop(run_id=A, fence=1)]) == {}
    assert worker.state.held == 1
    assert worker.deliver(drops=[Drop(run_id=A, fence=2)])[1][0].delivery.drops
    assert worker.credit() == (4, 99)


def test_a_cancel_of_another_fence_is_not_passed_on() -> None:
    worker = Worker()
    worker.start(A, fence=2)
    assert worker.deliver(cancels=[Cancel(run_id=A, fence=1)]) == {}


# -- reconnect


def test_a_reconnect_lists_what_is_held_and_sends_again_what_is_not_committed() -> None:
    worker = Worker()
    worker.start(A)
    worker.start(B)
    worker.say(checkpoint(A))
    worker.out()
    worker.say(completed(B))
    worker.out()
    worker.say(checkpoint(A, number=2))
    frames, _ = worker.reconnect()
    # B is still held: its end is not committed, and it must not be given to somebody else meanwhile.
    assert sorted(held(frames)) == [(A, 1), (B, 1)]
    assert frames[0].held.last
    assert [f.reports.frame_no for f in frames[1:]] == [1, 2, 3]
    # No credit before the answer: numbers of the old connection mean nothing.
    assert not any(f.HasField("credit") or f.reports.HasField("credit") for f in frames)
    worker.answer_held()
    (credit,) = worker.out()
    assert (credit.credit.free_slots, credit.credit.after_start_seq) == (3, 0)


def test_frames_committed_before_the_reconnect_are_not_sent_again() -> None:
    worker = Worker()
    worker.start(A)
    for number in (1, 2):
        worker.say(checkpoint(A, number=number))
        worker.out()
    worker.commit(1)
    frames, _ = worker.reconnect()
    assert [f.reports.frame_no for f in frames[1:]] == [2]


def test_the_answer_drops_cancels_and_updates() -> None:
    worker = Worker()
    for run in (A, B, C):
        worker.start(run)
    worker.reconnect()
    posts = worker.answer_held(
        drops=[Drop(run_id=A, fence=1)], cancels=[Cancel(run_id=B, fence=1)], updates=[update(C, 1)]
    )
    delivery = posts[1][0].delivery
    assert (delivery.drops[0].run_id, delivery.cancels[0].run_id, delivery.updates[0].run_id) == (A, B, C)
    assert worker.credit() == (2, 97)


def test_holding_nothing_is_said_too() -> None:
    frames, _ = Worker().reconnect()
    assert [f.held.last for f in frames] == [True]


def test_many_held_runs_take_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_state, "HELD_RUNS_PER_FRAME", 2)
    worker = Worker()
    for run in (A, B, C):
        worker.start(run)
    frames, _ = worker.reconnect()
    assert [(len(f.held.runs), f.held.last) for f in frames] == [(2, False), (1, True)]


def test_an_unknown_session_drops_everything_and_begins_anew() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(completed(A))
    worker.start(B)
    frames, posts = worker.reconnect(resumed=False)
    assert [drop.run_id for drop in dict(posts)[1][0].delivery.drops] == [A, B]
    assert [f.WhichOneof("frame") for f in frames] == ["credit"]
    worker.start(C)
    worker.say(completed(C))
    assert worker.out()[0].reports.frame_no == 1


def test_a_session_that_was_refused_is_not_asked_for_again() -> None:
    worker = Worker()
    worker.start(A)
    assert worker.state.hello().session_id == b"s" * 16
    posts = worker.state.session_unknown(worker.now)
    assert dict(posts)[1][0].delivery.drops[0].run_id == A
    assert worker.state.hello().session_id == b""
    assert worker.state.hello().worker_name == "w"


# -- lease


def test_the_lease_runs_from_the_sending_of_the_renewal() -> None:
    worker = Worker()
    worker.now += RENEW
    (renew,) = worker.out()
    worker.now += RENEW - 0.1
    worker.state.received(ConnectResponse(renewed=Renewed(nonce=renew.renew.nonce)), worker.now)
    assert worker.state.tick(1000 + RENEW + LEASE - 0.1)[0] is False
    assert worker.state.tick(1000 + RENEW + LEASE)[0] is True


def test_an_answer_to_a_renewal_of_another_connection_renews_nothing() -> None:
    worker = Worker()
    worker.now += RENEW
    (renew,) = worker.out()
    worker.reconnect()
    worker.state.received(ConnectResponse(renewed=Renewed(nonce=renew.renew.nonce)), worker.now)
    assert worker.state.tick(worker.now + LEASE)[0] is True


def test_holding_starts_nothing_passes_nothing_on_and_stops_nothing() -> None:
    worker = Worker()
    worker.start(A)
    worker.now += LEASE
    ended, posts = worker.state.tick(worker.now)
    assert ended
    assert posts == []
    assert worker.state.is_holding
    assert worker.start(B) == {}
    worker.say(checkpoint(A))
    assert worker.out() == []
    assert worker.state.tick(worker.now + HOLD - 1) == (False, [])
    # Contact again: the work goes on.
    frames, posts = worker.reconnect()
    assert posts == []
    assert held(frames) == [(A, 1)]
    assert [r.number for f in frames for r in f.reports.reports] == [1]
    assert not worker.state.is_holding


def test_after_hold_bodies_are_let_go_and_their_checkpoints_still_delivered() -> None:
    worker = Worker()
    worker.start(A)
    worker.say(checkpoint(A))
    worker.state.tick(worker.now + LEASE)
    _, posts = worker.state.tick(worker.now + LEASE + HOLD)
    assert [drop.run_id for drop in dict(posts)[1][0].delivery.drops] == [A]
    assert worker.state.executing == 0
    worker.now += LEASE + HOLD + 5
    frames, _ = worker.reconnect()
    assert held(frames) == [(A, 1)]
    reports = [r for f in frames for r in f.reports.reports]
    assert [r.WhichOneof("transition") for r in reports] == [None, "released"]


def test_the_deadline_names_the_next_thing_that_time_alone_does() -> None:
    worker = Worker()
    assert worker.state.deadline() == 1000 + RENEW
    worker.state.disconnected()
    assert worker.state.deadline() == 1000 + LEASE
    worker.state.tick(1000 + LEASE)
    assert worker.state.deadline() == 1000 + LEASE + HOLD
    worker.state.drain(1000 + LEASE, 30)
    assert worker.state.deadline() == 1000 + LEASE + 30


# -- drain


def test_a_drain_takes_nothing_new_and_ends_when_the_work_is_committed() -> None:
    worker = Worker()
    worker.start(A)
    worker.start(B)
    worker.say(park(B))
    worker.out()
    worker.commit(1)
    worker.state.drain(worker.now, 30)
    assert worker.credit() == (0, 0)
    worker.start(C)  # was on its way
    assert worker.reports()[0].WhichOneof("transition") == "released"
    worker.commit(2)
    assert not worker.state.is_drained
    worker.say(completed(A))
    assert not worker.state.is_drained
    worker.out()
    worker.commit(3)
    assert worker.state.is_drained  # B is parked: Goodbye hands it back
    worker.state.leave()
    assert [f.WhichOneof("frame") for f in worker.out()] == ["goodbye"]


def test_what_executes_after_the_drain_timeout_is_handed_back() -> None:
    worker = Worker()
    worker.start(A)
    worker.state.drain(worker.now, 5)
    worker.now += 5
    _, posts = worker.state.tick(worker.now)
    assert dict(posts)[1][0].delivery.drops[0].run_id == A
    (report,) = worker.reports()
    assert report.WhichOneof("transition") == "released"
    worker.commit(1)
    assert worker.state.is_drained


def test_an_executor_that_leaves_hands_back_what_is_parked_and_what_parks_later() -> None:
    worker = Worker(slots=4)
    worker.start(A)
    worker.start(B)
    worker.say(park(A))
    worker.out()
    worker.commit(1)
    worker.out()
    drops = [
        drop.run_id for _, posts in worker.state.executor_leaves(1, worker.now) for drop in posts[0].delivery.drops
    ]
    assert drops == [A]
    assert [(r.run_id, r.number, r.WhichOneof("transition")) for r in worker.reports()] == [(A, 2, "released")]
    worker.say(park(B), places=0)
    worker.out()
    worker.commit(3)
    assert [(r.run_id, r.WhichOneof("transition")) for r in worker.reports()] == [(B, "released")]
