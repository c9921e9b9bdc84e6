from __future__ import annotations

from holdfast_scheduler.model import RunEnd
from holdfast_scheduler.watching import Watchers

A, B = b"a" * 16, b"b" * 16


class Notes:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def ended(self, end: RunEnd) -> None:
        self.seen.append(("ended", end.run_id, end.status, end.output, end.error))

    def noticed(self, run_id: bytes, size: int) -> None:
        self.seen.append(("noticed", run_id, size))

    def changed(self, run_id: bytes) -> None:
        self.seen.append(("changed", run_id))

    def stopped(self) -> None:
        self.seen.append(("stopped",))


def test_nobody_watches() -> None:
    watchers = Watchers()
    watchers.ended("n", [(A, 10, None, None)])
    watchers.noticed("n", [(A, 1, None)])
    watchers.changed("n", [A])
    assert watchers.watched() == {}


def test_an_end_is_told_once_to_everybody() -> None:
    watchers, one, other = Watchers(), Notes(), Notes()
    watchers.add("n", A, one)
    watchers.add("n", A, other)
    watchers.add("n", B, one)
    watchers.ended("n", [(A, 10, b"out", None)])
    watchers.ended("n", [(A, 10, b"out", None)])
    assert one.seen == other.seen == [("ended", A, 10, b"out", None)]
    assert watchers.watched() == {"n": [B]}


def test_namespaces_are_apart() -> None:
    watchers, notes = Watchers(), Notes()
    watchers.add("one", A, notes)
    watchers.ended("other", [(A, 10, None, None)])
    watchers.changed("other", [A])
    assert notes.seen == []
    assert watchers.watched() == {"one": [A]}
    assert watchers.heard("one", [B, A]) == [A]
    assert watchers.heard("other", [B, A]) == []


def test_changes_go_on_until_the_end() -> None:
    watchers, notes = Watchers(), Notes()
    watchers.add("n", A, notes)
    watchers.changed("n", [A, B])
    watchers.changed("n", [A])
    watchers.noticed("n", [(A, 5, None)])
    watchers.changed("n", [A])
    assert notes.seen == [("changed", A), ("changed", A), ("noticed", A, 5)]
    assert watchers.watched() == {}


def test_an_end_that_is_noticed_with_its_result_needs_no_look() -> None:
    watchers, notes = Watchers(), Notes()
    watchers.add("n", A, notes)
    watchers.noticed("n", [(A, 3, RunEnd(A, 10, b"out", None)), (B, 5, None)])
    assert notes.seen == [("ended", A, 10, b"out", None)]
    assert watchers.watched() == {}


def test_a_run_that_was_heard_to_have_ended_is_remembered_as_open_no_longer() -> None:
    watchers = Watchers()
    watchers.created("n", [A, B])
    assert watchers.heard("n", [A]) == []
    assert watchers.standing("n", A) == (False, None)
    assert watchers.standing("n", B) == (True, None)


def test_discard() -> None:
    watchers, one, other = Watchers(), Notes(), Notes()
    watchers.add("n", A, one)
    watchers.add("n", A, other)
    watchers.discard("n", A, one)
    watchers.discard("n", A, one)
    watchers.discard("m", B, one)
    watchers.changed("n", [A])
    assert (one.seen, other.seen) == ([], [("changed", A)])
    watchers.discard("n", A, other)
    assert watchers.watched() == {}


def test_a_sink_may_discard_while_it_is_told() -> None:
    watchers = Watchers()

    class Leaves(Notes):
        def changed(self, run_id: bytes) -> None:
            super().changed(run_id)
            watchers.discard("n", run_id, self)

    first, second = Leaves(), Notes()
    watchers.add("n", A, first)
    watchers.add("n", A, second)
    watchers.changed("n", [A])
    watchers.changed("n", [A])
    assert (len(first.seen), len(second.seen)) == (1, 2)


def test_stop_tells_everybody_once() -> None:
    watchers, notes = Watchers(), Notes()
    watchers.add("n", A, notes)
    watchers.add("n", B, notes)
    watchers.stop()
    assert notes.seen == [("stopped",)]
    assert watchers.is_stopped
    assert watchers.watched() == {}


def test_stop_tells_those_that_watch_nothing_too() -> None:
    watchers, stays, left = Watchers(), Notes(), Notes()
    watchers.enter(stays)
    watchers.add("n", A, stays)
    watchers.enter(left)
    watchers.leave(left)
    watchers.leave(left)
    watchers.stop()
    watchers.stop()
    assert (stays.seen, left.seen) == ([("stopped",)], [])
