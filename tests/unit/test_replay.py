"""The rules at the top of `holdfast_worker.replay`, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import NonDeterminismError
from holdfast.v1.run_pb2 import (
    CHECKPOINT_KIND_CHILD,
    CHECKPOINT_KIND_STEP,
    CHECKPOINT_KIND_TOKEN_WAIT,
    CHECKPOINT_KIND_WAIT,
    CHECKPOINT_STATUS_SUCCEEDED,
    Checkpoint,
)
from holdfast_worker.replay import AnswerOrder, Branch, Entry, Replay

STEP, WAIT, CHILD = CHECKPOINT_KIND_STEP, CHECKPOINT_KIND_WAIT, CHECKPOINT_KIND_CHILD


class Execution:
    """Makes calls and keeps what they would record."""

    def __init__(self, records: list[Checkpoint] | None = None, attempt: int = 1) -> None:
        self.attempt = attempt
        self.records = list(records or ())
        self.replay = Replay(self.records, attempt)
        self.root = Branch()

    def call(
        self,
        name: str,
        kind: int = STEP,
        args: bytes = b"",
        *,
        branch: Branch | None = None,
        line: str = "t.py:1",
        **how: Any,
    ) -> Entry:
        fingerprint = b"" if kind == WAIT or how.get("key") else args or b"()"
        return self.replay.take(branch or self.root, kind, name, fingerprint, line, **how)

    def record(self, entry: Entry, seq: int = 0, *, status: int = CHECKPOINT_STATUS_SUCCEEDED, **fields: Any) -> None:
        checkpoint = Checkpoint(
            seq=seq or max((r.seq for r in self.records), default=0) + 1,
            identity=entry.identity,
            name=entry.name,
            fingerprint=entry.fingerprint,
            location=entry.location,
            attempt=self.attempt,
            **fields,
        )
        checkpoint.kind, checkpoint.status = entry.kind, status  # type: ignore[assignment]
        checkpoint.settled_order = checkpoint.seq
        self.records.append(checkpoint)

    def run(self, *names: str, **how: Any) -> Execution:
        for name in names:
            self.record(self.call(name, **how))
        return self

    def again(self, attempt: int | None = None) -> Execution:
        return Execution(self.records, attempt or self.attempt)


def test_the_same_calls_find_their_records() -> None:
    second = Execution().run("a", "a", "b").again()
    assert [second.call(name).seq for name in ("a", "a", "b")] == [1, 2, 3]
    assert not second.call("new").is_made
    second.replay.check_returned({"0": True})


def test_reordered_calls_find_their_own_records() -> None:
    second = Execution().run("a", "b").again()
    assert [second.call(name).seq for name in ("b", "a")] == [2, 1]


def test_other_arguments_are_an_error_that_names_both() -> None:
    second = Execution().run("charge", args=b"1").again()
    with pytest.raises(NonDeterminismError, match=r"charge.*t\.py:9.*charge.*t\.py:1.*key"):
        second.call("charge", args=b"2", line="t.py:9")


def test_other_arguments_are_an_error_in_a_new_attempt_too() -> None:
    second = Execution().run("charge", args=b"1").again(attempt=2)
    with pytest.raises(NonDeterminismError):
        second.call("charge", args=b"2")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.call("renamed"),  # a was renamed
        lambda e: (e.call("b"), e.call("c")),  # a was removed
        lambda e: (e.call("a"), e.call("x")),  # x was inserted
    ],
)
def test_new_ground_before_the_records_are_asked_for_is_an_error(change: Callable[[Execution], Any]) -> None:
    second = Execution().run("a", "b").again()
    with pytest.raises(NonDeterminismError, match="not recorded"):
        change(second)


def test_a_new_attempt_may_go_another_way() -> None:
    first = Execution()
    first.call("flaky")  # failed for the time being: its record does not come back
    first.record(first.call("fallback"), seq=2)
    second = first.again(attempt=2)
    assert not second.call("flaky").is_made
    assert not second.call("next").is_made
    second.replay.check_returned({"0": True})


def test_a_slow_first_step_without_record_is_no_alarm() -> None:
    first = Execution()
    first.call("slow")
    first.record(first.call("fast"))
    second = first.again()
    assert not second.call("slow").is_made
    assert second.call("fast").is_made


def test_branches_do_not_disturb_each_other() -> None:
    first = Execution()
    one, two = first.root.fork(), first.root.fork()
    first.record(first.call("a", branch=two))
    second = first.again()
    one, two = second.root.fork(), second.root.fork()
    assert not second.call("a", branch=one).is_made
    assert second.call("a", branch=two).is_made
    assert one.name == "0.0"
    assert two.name == "0.1"


def test_a_key_is_found_wherever_it_is_asked_for() -> None:
    first = Execution()
    first.record(first.call("mail", CHILD, key=b"1"))
    first.run("a")
    second = first.again()
    second.call("a")
    branch = second.root.fork()
    assert second.call("mail", CHILD, key=b"1", branch=branch).seq == 1
    assert second.call("mail", CHILD, key=b"1").seq == 1
    assert not second.call("mail", CHILD, key=b"2").is_made


def test_adding_and_removing_keyed_calls_moves_nobody() -> None:
    first = Execution()
    first.record(first.call("mail", CHILD, key=b"1"))
    first.record(first.call("", WAIT))
    second = first.again()
    assert second.call("", WAIT).is_made
    assert not second.call("mail", CHILD, key=b"2").is_made


def test_waits_ignore_their_names() -> None:
    assert Execution().run("until noon", kind=WAIT).again().call("until one", WAIT).is_made


def test_a_wait_at_another_place_is_an_error() -> None:
    first = Execution().run("a").run("", kind=WAIT)
    with pytest.raises(NonDeterminismError, match="call 1 of its branch"):
        first.again().call("", WAIT)


def test_a_wait_of_a_path_that_failed_does_not_answer_another_one() -> None:
    first = Execution()
    first.call("flaky")
    first.record(first.call("", WAIT, line="t.py:5"), seq=2)
    second = first.again(attempt=2)
    second.call("flaky")
    other = second.call("", WAIT, line="t.py:8")
    assert not other.is_made
    second.record(other, seq=3)
    # and a recovery of that attempt sees the same
    third = Execution(second.records, 2)
    third.call("flaky")
    assert third.call("", WAIT, line="t.py:8").seq == 3


def test_a_wait_of_an_earlier_attempt_keeps_its_instant() -> None:
    first = Execution().run("a").run("", kind=WAIT)
    second = first.again(attempt=2)
    second.call("a")
    assert second.call("", WAIT, line="t.py:77").seq == 2


def test_a_wait_for_another_token_is_an_error() -> None:
    first = Execution()
    entry = first.call("t", CHECKPOINT_KIND_TOKEN_WAIT, token_id="token_1")
    first.record(entry, subject_id="token_1")
    with pytest.raises(NonDeterminismError, match="token_2"):
        first.again().call("t", CHECKPOINT_KIND_TOKEN_WAIT, token_id="token_2")


def test_returning_without_a_recorded_call_is_an_error() -> None:
    second = Execution().run("a", "b").again()
    second.call("a")
    with pytest.raises(NonDeterminismError, match="returned without"):
        second.replay.check_returned({"0": True})
    second.replay.check_returned({"0": False})


def test_a_branch_that_is_not_made_again_is_its_parents_affair() -> None:
    first = Execution()
    first.record(first.call("a", branch=Branch("0.3.1")))
    second = first.again()
    with pytest.raises(NonDeterminismError):
        second.replay.check_returned({"0": True})
    second.replay.check_returned({"0": True, "0.3": False})


# -- the order of answers


def entries(*orders: int) -> list[Entry]:
    made = []
    for order in orders:
        entry = Entry(f"{order}", STEP, f"{order}", b"", "", order)
        entry.order = entry.seq = order
        made.append(entry)
    return made


def ask(order: AnswerOrder, entry: Entry) -> None:
    entry.is_asked = True
    order.ask(entry)


def test_the_lowest_asked_answers_first() -> None:
    first, second = entries(1, 2)
    order = AnswerOrder([second, first])
    ask(order, second)
    ask(order, first)
    assert order.next(lambda _: False) is first
    assert order.next(lambda _: False) is second
    assert order.next(lambda _: False) is None


def test_a_lower_one_that_may_still_be_asked_for_comes_first() -> None:
    first, second = entries(1, 2)
    order = AnswerOrder([first, second])
    ask(order, second)
    assert order.next(lambda _: False) is None
    ask(order, first)
    assert order.next(lambda _: False) is first
    assert order.next(lambda _: False) is second


def test_a_blocked_body_gets_what_it_asked_for() -> None:
    first, second, third = entries(1, 2, 3)
    order = AnswerOrder([first, second, third])
    ask(order, second)
    assert order.next(lambda _: True) is second
    ask(order, third)
    assert order.next(lambda _: False) is third  # the first is late: nothing waits for it again
    ask(order, first)
    assert order.next(lambda _: False) is first


def test_patience_ends() -> None:
    first, second = entries(1, 2)
    order = AnswerOrder([first, second])
    ask(order, second)
    order.give_up()
    assert order.next(lambda _: False) is second


def test_what_is_settled_live_comes_after_what_was_recorded() -> None:
    recorded, live, unasked = entries(1, 3, 2)
    order = AnswerOrder([recorded])
    live.is_asked = True
    order.settle(live)
    assert order.next(lambda _: False) is None
    order.settle(unasked)
    ask(order, recorded)
    assert order.next(lambda _: False) is recorded
    assert order.next(lambda _: False) is None
    ask(order, unasked)
    assert [order.next(lambda _: False), order.next(lambda _: False)] == [unasked, live]
