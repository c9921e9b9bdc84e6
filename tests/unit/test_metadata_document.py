"""Metadata documents: marks, provisional operations, and both ends doing the same to a document."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.v1.worker_service_pb2 import MetadataOperation
from holdfast_scheduler.metadata_document import APPEND, DELETE, INCREMENT, REMOVE, SET, MetadataRow, apply, dump
from holdfast_scheduler.model import MetadataOp
from holdfast_worker.metadata import Metadata, MetadataError, changed


def op(
    verb: int, key: str = "k", value: Any = 1, *, branch: str = "", number: int = 1, provisional: bool = False
) -> MetadataOp:
    return MetadataOp(1, verb, key, json.dumps(value).encode(), branch, number, provisional)


@pytest.mark.parametrize(
    ("before", "verb", "value", "after"),
    [
        ({}, SET, {"a": [1]}, {"k": {"a": [1]}}),
        ({"k": 1, "x": 2}, DELETE, None, {"x": 2}),
        ({}, DELETE, None, {}),
        ({}, INCREMENT, 2, {"k": 2}),
        ({"k": 1.5}, INCREMENT, -1, {"k": 0.5}),
        ({"k": "text"}, INCREMENT, 2, {"k": 2}),
        ({"k": True}, INCREMENT, 2, {"k": 2}),
        ({}, APPEND, "x", {"k": ["x"]}),
        ({"k": [1]}, APPEND, [2], {"k": [1, [2]]}),
        ({"k": 7}, APPEND, 1, {"k": [1]}),
        ({"k": [1, 2, 1]}, REMOVE, 1, {"k": [2, 1]}),
        ({"k": [2]}, REMOVE, 1, {"k": [2]}),
        ({"k": 7}, REMOVE, 7, {"k": 7}),
    ],
)
def test_operations(before: dict[str, Any], verb: int, value: Any, after: dict[str, Any]) -> None:
    apply(before, op(verb, value=value))
    assert before == after


def test_what_is_reported_again_is_not_counted_twice() -> None:
    row = MetadataRow()
    row.report(1, [op(INCREMENT, number=1, provisional=True)], commits=False)
    assert (row.committed, row.live) == ({}, {"k": 1})
    row.report(1, [op(INCREMENT, number=1)], commits=True)
    assert (row.committed, row.live, row.marks) == ({"k": 1}, {"k": 1}, {"": 1})
    row.report(2, [op(INCREMENT, number=1), op(INCREMENT, number=2)], commits=True)
    assert (row.committed, row.marks) == ({"k": 2}, {"": 2})


def test_a_new_fence_forgets_what_was_provisional() -> None:
    row = MetadataRow()
    row.report(1, [op(INCREMENT, number=1)], commits=True)
    row.report(1, [op(INCREMENT, number=2, provisional=True)], commits=False)
    row.report(2, [], commits=False)
    assert row.live == row.committed == {"k": 1}


def test_branches_are_counted_apart_and_outsiders_not_at_all() -> None:
    row = MetadataRow()
    row.report(1, [op(INCREMENT, branch="a", number=3), op(INCREMENT, branch="b", number=1)], commits=True)
    row.from_outside(op(INCREMENT, number=1))
    row.from_outside(op(INCREMENT, number=1))
    assert (row.committed, row.live, row.marks) == ({"k": 4}, {"k": 4}, {"a": 3, "b": 1})


def test_the_stored_form_keeps_everything() -> None:
    row = MetadataRow()
    row.report(3, [op(SET, value="ä€"), op(SET, "x", 1, branch="b", number=4)], commits=False)
    assert MetadataRow.decode(*row.encode()) == row


values = st.one_of(st.integers(-5, 5), st.text("xy", max_size=2), st.lists(st.integers(0, 2), max_size=3), st.none())
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([SET, APPEND, REMOVE]), st.sampled_from("kl"), values),
        st.tuples(st.just(INCREMENT), st.sampled_from("kl"), st.integers(-3, 3)),
        st.tuples(st.just(DELETE), st.sampled_from("kl"), st.none()),
    ),
    max_size=20,
)


@given(operations)
def test_both_ends_do_the_same_to_a_document(asked: list[tuple[int, str, Any]]) -> None:
    here: dict[str, Any] = {}
    there: dict[str, Any] = {}
    for number, (verb, key, value) in enumerate(asked, 1):
        one = op(verb, key, value, number=number)
        try:
            there = changed(there, MetadataOperation(verb=verb, key=key, value=one.value, number=number))  # type: ignore[arg-type]
        except MetadataError:
            continue  # the body sees the error, and nothing is reported
        apply(here, one)
        assert dump(here) == dump(there)


@given(operations, st.lists(st.sampled_from(["flush", "commit", "resume", "crash"]), max_size=20))
def test_what_a_body_sees_is_what_the_scheduler_keeps(asked: list[tuple[int, str, Any]], turns: list[str]) -> None:
    """Whatever is flushed when, and wherever the body is resumed or re-entered, nothing is lost or counted twice."""
    row, fence, done = MetadataRow(), 1, 0
    body = Metadata(b"", [])

    def report(*, commits: bool) -> None:
        taken = body.take(is_committing=commits)
        ops = [MetadataOp(o.target, o.verb, o.key, o.value, o.branch, o.number, o.provisional) for o in taken]
        if ops:
            row.report(fence, ops, commits=any(not one.provisional for one in ops))

    def make(upto: int) -> None:
        for number, (verb, key, value) in enumerate(asked[:upto], 1):
            if number > made[0]:
                made[0] = number
                try:
                    body.apply(
                        MetadataOperation(verb=verb, key=key, value=json.dumps(value).encode(), number=number)  # type: ignore[arg-type]
                    )
                except MetadataError:
                    pass

    made = [0]
    for turn in turns:
        done = min(len(asked), done + 2)
        make(done)
        if turn in ("flush", "commit"):
            report(commits=turn == "commit")
        elif turn == "resume":
            report(commits=True)  # parking commits
            fence += 1
            body.new_fence()
        else:
            fence += 1
            from holdfast.v1.worker_service_pb2 import MetadataMark

            body = Metadata(dump(row.committed), [MetadataMark(branch=b, number=n) for b, n in row.marks.items()])
            made[0] = 0
            make(done)
    make(len(asked))
    report(commits=True)
    assert row.committed == body.document
