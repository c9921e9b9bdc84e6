"""The limits of queues and the order of lanes, without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_scheduler import admission
from holdfast_scheduler import model as m
from holdfast_scheduler.admission import (
    UNLIMITED,
    Room,
    Share,
    declared_limits,
    in_turns,
    share_out,
    taken_from,
    taken_text,
    why_queued,
    with_start,
)
from holdfast_scheduler.backlog import HEAD_START, LANES_KNOWN, Backlog, Lanes
from holdfast_scheduler.model import NO_LIMITS, QueueLimits, QueueRow

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def queue(**limits: int) -> QueueRow:
    return QueueRow("q", QueueLimits(**limits))


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_queue_without_limits_admits_everything() -> None:
    room = Room(queue(), {"a": 100}, NOW)
    assert (room.left(), room.lane_left("a")) == (UNLIMITED, UNLIMITED)
    assert room.opens_at() is None
    assert not queue().gates_starts


def test_the_limit_of_a_lane_counts_that_lane_alone() -> None:
    room = Room(queue(lane=2), {"a": 2, "b": 1}, NOW)
    assert [room.lane_left(lane) for lane in "abc"] == [0, 1, 2]
    room.take_start("b")
    assert [room.lane_left(lane) for lane in "abc"] == [0, 0, 2]
    assert room.left() > 1_000_000


def test_the_limit_of_all_lanes_counts_them_together() -> None:
    room = Room(queue(lane=2, total=4), {"a": 2, "b": 1}, NOW)
    assert [room.lane_left(lane) for lane in "abc"] == [0, 1, 1]
    room.take_start("c")
    assert [room.lane_left(lane) for lane in "abc"] == [0, 0, 0]
    assert room.is_closed()


def test_a_lowered_limit_admits_nothing_until_enough_have_ended() -> None:
    assert Room(queue(total=2), {"a": 5}, NOW).left() == 0
    assert Room(queue(lane=2), {"a": 5}, NOW).lane_left("a") == 0


def test_a_paused_queue_admits_neither_starts_nor_woken_runs() -> None:
    row = queue(lane=5)
    row.paused_at = NOW - SECOND
    room = Room(row, {}, NOW)
    assert (room.left(), room.lane_left(""), room.has_slot("")) == (0, 0, False)
    assert room.is_closed()
    assert row.gates_starts


def test_a_woken_run_needs_a_slot_and_no_start() -> None:
    row = queue(total=2, rate=1, period_us=SECOND)
    row.taken = ((NOW - 1, 1),)
    room = Room(row, {"": 1}, NOW)
    assert room.left() == 0
    assert room.has_slot("")
    room.take_slot("")
    assert not room.has_slot("")
    assert not room.has_started


# --- rate -------------------------------------------------------------------------------------------------------------


def test_a_start_comes_back_a_period_after_it_was_taken() -> None:
    row = queue(rate=2, period_us=10 * SECOND)
    room = Room(row, {}, NOW)
    room.take_start("")
    assert room.left() == 1
    assert room.opens_at() is None
    room.take_start("")
    assert room.left() == 0
    assert room.opens_at() == NOW + 10 * SECOND
    row.taken = room.taken
    assert Room(row, {}, NOW + 10 * SECOND - 1).left() == 0
    assert Room(row, {}, NOW + 10 * SECOND).left() == 2


@given(
    st.integers(1, 5),
    st.integers(1, 1_000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 6)), max_size=60),
)
def test_no_period_whenever_it_begins_has_more_starts_than_the_limit(
    rate: int, period: int, asked: list[tuple[int, int]]
) -> None:
    row = queue(rate=rate, period_us=period)
    now, starts = NOW, []
    for later, wanted in asked:
        now += later
        room = Room(row, {}, now)
        for _ in range(min(wanted, room.left())):
            room.take_start("")
            starts.append(now)
        row.taken = taken_from(taken_text(room.taken))
    for begin in starts:
        assert sum(begin <= instant < begin + period for instant in starts) <= rate


@given(st.integers(1, 1_000), st.lists(st.integers(0, 400), min_size=1, max_size=400))
def test_the_record_of_starts_stays_small(period: int, pauses: list[int]) -> None:
    taken: admission.Taken = ()
    now = NOW
    for pause in pauses:
        now += pause
        taken = with_start(admission.still_taken(taken, period, now), period, now)
        assert len(taken) <= admission.RATE_GRAIN + 2 if period >= admission.RATE_GRAIN else period + 1
    assert taken == tuple(sorted(taken))


def test_a_clock_behind_that_of_another_replica_takes_no_start_back_early() -> None:
    taken = with_start(((NOW, 1),), 64 * SECOND, NOW - 10 * SECOND)
    assert taken == ((NOW - 10 * SECOND, 1), (NOW, 1))
    assert with_start(((NOW, 1),), 64 * SECOND, NOW - 1) in (((NOW, 2),), ((NOW - 1, 1), (NOW, 1)))


# --- what code declares -----------------------------------------------------------------------------------------------


def test_a_task_that_only_names_the_queue_declares_nothing() -> None:
    five = QueueLimits(lane=5)
    assert declared_limits([("1", 10, five), ("1", 10, NO_LIMITS), ("2", 20, NO_LIMITS)]) == five
    assert declared_limits([("1", 10, NO_LIMITS)]) == NO_LIMITS
    assert declared_limits([]) == NO_LIMITS


def test_the_newest_version_that_declares_counts() -> None:
    old, new = QueueLimits(lane=5, depth=9), QueueLimits(lane=7)
    assert declared_limits([("1", 10, old), ("2", 20, new)]) == new
    assert declared_limits([("1", 30, old), ("2", 20, new)]) == old


def test_of_one_version_the_strictest_counts() -> None:
    one = QueueLimits(lane=5, rate=10, period_us=SECOND)
    two = QueueLimits(lane=3, total=8, rate=30, period_us=SECOND)
    strictest = QueueLimits(lane=3, total=8, rate=10, period_us=SECOND)
    assert declared_limits([("1", 10, one), ("1", 11, two)]) == strictest


# --- turns ------------------------------------------------------------------------------------------------------------


def shares(room: int, *lanes: Share) -> list[int]:
    share_out(lanes, room)
    return [lane.got for lane in lanes]


def test_lanes_share_room_turn_by_turn() -> None:
    assert shares(7, Share(100), Share(100), Share(100)) == [3, 2, 2]
    assert shares(7, Share(1), Share(100), Share(2)) == [1, 4, 2]
    assert shares(2, Share(100), Share(100), Share(100)) == [1, 1, 0]
    assert shares(100, Share(1), Share(0), Share(2)) == [1, 0, 2]
    assert shares(0, Share(1)) == [0]


def test_lanes_of_a_limited_queue_share_its_room() -> None:
    limited = (Share(5, "q", 3), Share(5, "q", 3))
    assert shares(10, *limited, Share(100)) == [2, 1, 7]


@given(st.integers(0, 50), st.lists(st.tuples(st.integers(0, 10), st.sampled_from("ab"))))
def test_shares_keep_all_limits_and_leave_nothing(room: int, given_lanes: list[tuple[int, str]]) -> None:
    groups = {"a": 7, "b": UNLIMITED}
    lanes = [Share(most, group, groups[group]) for most, group in given_lanes]
    share_out(lanes, room)
    got = {group: sum(lane.got for lane in lanes if lane.group == group) for group in groups}
    can = {group: min(groups[group], sum(lane.most for lane in lanes if lane.group == group)) for group in groups}
    assert all(lane.got <= lane.most for lane in lanes)
    assert got["a"] <= can["a"]
    assert sum(got.values()) == min(room, sum(can.values()))


def test_runs_of_lanes_take_turns() -> None:
    assert in_turns(["aaa", "b", "cc"]) == list("abcaca")
    assert in_turns([]) == []


# --- lanes ------------------------------------------------------------------------------------------------------------


T, U, V = (("t", "", False), ("u", "", False), ("v", "1", True))


def order(lanes: Lanes, *kinds: m.Kind, closed: dict[str, frozenset[str] | None] | None = None) -> list[str]:
    return [f"{turn.queue}/{turn.lane}" for turn in lanes.turns(kinds or (T,), closed or {})]


def test_the_least_recently_served_lane_comes_first() -> None:
    lanes = Lanes()
    for lane in "abc":
        lanes.add("q", lane, T)
    assert order(lanes) == ["q/a", "q/b", "q/c"]
    lanes.serve("q", "a")
    assert order(lanes) == ["q/b", "q/c", "q/a"]
    lanes.serve("q", "c")
    assert order(lanes) == ["q/b", "q/a", "q/c"]


def test_a_lane_keeps_its_place_while_nothing_waits_in_it() -> None:
    lanes = Lanes()
    for lane in "ab":
        lanes.add("q", lane, T)
    lanes.serve("q", "a")
    lanes.serve("q", "b")
    lanes.remove("q", "b", T)
    lanes.serve("q", "a")
    lanes.add("q", "b", T)
    assert order(lanes) == ["q/b", "q/a"]


def test_lanes_of_all_queues_take_turns() -> None:
    lanes = Lanes()
    for name in ("x", "y"):
        lanes.add(name, "", T)
    lanes.serve("x", "")
    assert order(lanes) == ["y/", "x/"]
    assert order(lanes, closed={"y": None}) == ["x/"]
    assert order(lanes, closed={"y": frozenset({"k"})}) == ["y/", "x/"]
    assert order(lanes, closed={"y": frozenset({""})}) == ["x/"]


def test_a_new_lane_comes_before_all_that_are_busy() -> None:
    lanes = Lanes()
    for lane in "abc":
        lanes.add("q", lane, T)
    for _ in range(50):
        for lane in "abc":
            lanes.serve("q", lane)
    lanes.add("q", "new", T)
    assert order(lanes)[0] == "q/new"


def test_a_stream_of_new_lanes_cannot_keep_an_old_one_from_its_turn() -> None:
    lanes = Lanes()
    lanes.add("q", "old", T)
    lanes.serve("q", "old")
    served = 0
    for number in range(8 * HEAD_START):
        for part in "xy":  # twice as many come as are served
            lanes.add("q", f"{part}{number}", T)
        first = next(lanes.turns((T,), {}))
        lanes.serve("q", first.lane)
        served += first.lane == "old"
        if first.lane != "old":
            lanes.remove("q", first.lane, T)
    assert served >= 2


def test_only_lanes_with_wanted_kinds_have_turns() -> None:
    lanes = Lanes()
    lanes.add("q", "a", T)
    lanes.add("q", "a", U)
    lanes.add("q", "b", U)
    assert order(lanes, T) == ["q/a"]
    assert order(lanes, U) == ["q/a", "q/b"]
    (turn,) = lanes.turns((T, V), {})
    assert turn.kinds == {T}
    lanes.remove("q", "a", T)
    assert order(lanes, T) == []
    assert lanes.kinds({}) == {U}
    assert lanes.kinds({"q": None}) == frozenset()


def test_what_is_kept_in_memory_is_bounded() -> None:
    lanes = Lanes()
    for number in range(LANES_KNOWN + 10):
        lanes.add("q", str(number), T)
    assert lanes.count == LANES_KNOWN
    assert not lanes.are_all_known
    for number in range(5 * HEAD_START):
        lanes.serve(f"queue{number}", "")
    assert len(lanes._served) <= HEAD_START
    assert len(lanes._queues) <= HEAD_START + 1


def test_a_scan_replaces_the_list_and_keeps_whose_turn_it_is() -> None:
    lanes = Lanes()
    for lane in "abc":
        lanes.add("q", lane, T)
    lanes.serve("q", "a")
    lanes.replace([("q", "a", T), ("q", "new", T), ("q", "c", T)], are_all=True)
    assert order(lanes) == ["q/c", "q/new", "q/a"]
    assert lanes.count == 3
    lanes.replace([], are_all=True)
    assert order(lanes) == []
    assert lanes.count == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "serve"]), st.sampled_from("xy"), st.sampled_from("abcd")),
        max_size=80,
    )
)
def test_every_waiting_lane_has_exactly_one_turn(steps: list[tuple[str, str, str]]) -> None:
    lanes = Lanes()
    waiting: set[tuple[str, str]] = set()
    last: dict[tuple[str, str], int] = {}
    for at, (what, name, lane) in enumerate(steps):
        if what == "serve":
            lanes.serve(name, lane)
            last[name, lane] = at
            continue
        getattr(lanes, what)(name, lane, T)
        (waiting.add if what == "add" else waiting.discard)((name, lane))
    turns = [(turn.queue, turn.lane) for turn in lanes.turns((T,), {})]
    assert sorted(turns) == sorted(waiting)
    assert lanes.count == len(waiting)
    served = [last[turn] for turn in turns if turn in last]
    assert served == sorted(served)
    assert all(turn not in last for turn in turns[: len(turns) - len(served)])


# --- closed queues ----------------------------------------------------------------------------------------------------


def test_a_closed_queue_opens_as_a_whole_or_by_lane() -> None:
    backlog = Backlog()
    backlog.close("q", {"a", "b"}, has_slots=True)
    assert backlog.is_closed("q", "a")
    assert not backlog.is_closed("q", "c")
    backlog.open("q", "a")
    assert not backlog.is_closed("q", "a")
    assert backlog.is_closed("q", "b")
    backlog.open("q", "b")
    assert not backlog.closed
    backlog.close("q", None, has_slots=False)
    assert backlog.is_closed("q", "c")
    assert backlog.is_closed("q", "c", is_body=True)
    backlog.open("q", "c")
    assert not backlog.closed


def test_a_queue_that_only_used_up_its_rate_lets_woken_runs_go_on() -> None:
    backlog = Backlog()
    backlog.close("q", None, has_slots=True)
    assert backlog.is_closed("q", "")
    assert not backlog.is_closed("q", "", is_body=True)


def test_woken_runs_are_looked_at_again_when_a_queue_opens() -> None:
    backlog = Backlog()
    backlog.has_bodies, backlog.has_gated_bodies = False, True
    backlog.open("q")
    assert backlog.has_bodies


# --- reasons ----------------------------------------------------------------------------------------------------------

PAUSED = QueueRow("q", NO_LIMITS, paused_at=NOW)
RATED = QueueRow("q", QueueLimits(rate=1, period_us=SECOND), taken=((NOW, 1),))


@pytest.mark.parametrize(
    ("row", "executing", "workers", "reason"),
    [
        (None, {}, 1, m.NO_SLOT),
        (None, {}, 0, m.NO_WORKER),
        (PAUSED, {}, 0, m.PAUSED),
        (queue(total=2), {"a": 1, "b": 1}, 1, m.QUEUE_LIMIT),
        (queue(lane=1), {"a": 1}, 1, m.QUEUE_LIMIT),
        (queue(lane=1), {"b": 1}, 1, m.NO_SLOT),
        (RATED, {}, 1, m.RATE_LIMIT),
        (RATED, {}, 0, m.NO_WORKER),
    ],
)
def test_why_a_run_is_queued(row: QueueRow | None, executing: dict[str, int], workers: int, reason: int) -> None:
    assert why_queued(row, executing, "a", NOW, workers) == reason
