from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.fake_scope import FakeScope, running
from holdfast import idempotency_keys, step
from holdfast.context import AttemptContext
from holdfast.errors import InvalidKeyError
from holdfast.v1 import run_pb2

part = st.one_of(
    st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t and t.isprintable()),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)
parts = st.lists(part, min_size=1, max_size=5)


@given(parts, parts)
def test_different_parts_never_encode_alike(one, other):
    typed_one, typed_other = [(type(p), p) for p in one], [(type(p), p) for p in other]
    assert (idempotency_keys.encode(one) == idempotency_keys.encode(other)) == (typed_one == typed_other)


@pytest.mark.parametrize(
    ("one", "other"), [(["a", "b"], ["a-b"]), ([1], ["1"]), ([True], [1]), ([False], [0]), (["a", "b"], ["ab"])]
)
def test_the_documented_ambiguities_are_told_apart(one, other):
    assert idempotency_keys.create(one) != idempotency_keys.create(other)
    assert len({idempotency_keys.create(one), idempotency_keys.create(other)}) == 2


def test_a_plain_text_is_a_key_of_one_part():
    assert idempotency_keys.of("order-7") == idempotency_keys.create(["order-7"]) == idempotency_keys.create("order-7")


@pytest.mark.parametrize(
    "bad",
    [[], [1.5], [None], ["a", ["b"]], 2.0, None, [""], ["\0"], ["\ud800"], [2**63], ["x" * 1025], list(range(33)),
     ["x" * 1000] * 3],
)  # fmt: skip
def test_what_is_no_key_is_refused(bad):
    with pytest.raises(InvalidKeyError):
        idempotency_keys.create(bad)


def test_floats_are_refused_with_a_way_out():
    with pytest.raises(InvalidKeyError, match="round it, or use it as text"):
        idempotency_keys.create(["a", 1.5])


def test_only_texts_and_created_keys_are_keys():
    with pytest.raises(InvalidKeyError, match=r"idempotency_keys\.create"):
        idempotency_keys.of(["a", "b"])
    with pytest.raises(InvalidKeyError, match="scope"):
        idempotency_keys.create("a", scope="galaxy")  # type: ignore[arg-type]


def test_a_key_travels_by_kind_of_part():
    message = idempotency_keys.create(["a", -5, True], scope="global").to_message("3d")
    assert [p.WhichOneof("part") for p in message.parts] == ["text", "number", "flag"]
    assert message.scope == run_pb2.KEY_SCOPE_GLOBAL
    assert message.ttl.seconds == 3 * 86400
    assert not idempotency_keys.create("a").to_message().HasField("ttl")


def test_the_identity_of_a_keyed_call_holds_kind_task_scope_and_parts():
    key = idempotency_keys.create(["a"])
    same = idempotency_keys.create(["a"], scope="run")
    other = idempotency_keys.create(["a"], scope="attempt")
    scope = FakeScope()
    encoded = idempotency_keys.encode_call("task", "t", key, scope)
    assert encoded == idempotency_keys.encode_call("task", "t", same, scope)
    assert encoded != idempotency_keys.encode_call("task", "t", other, scope)
    assert encoded != idempotency_keys.encode_call("task", "u", key, scope)
    assert encoded != idempotency_keys.encode_call("step", "t", key, scope)


async def test_a_key_of_the_attempt_is_another_in_the_next_attempt():
    first, second = FakeScope(), FakeScope()
    second.ctx = dataclasses.replace(second.ctx, attempt=AttemptContext(2))
    of_run, of_attempt = idempotency_keys.create("k"), idempotency_keys.create("k", scope="attempt")

    def encoded(key, scope):
        return idempotency_keys.encode_call("step", "charge", key, scope)

    assert encoded(of_run, first) == encoded(of_run, second)
    assert encoded(of_attempt, first) != encoded(of_attempt, second)
    with running(first):
        await step("charge", int, key=of_attempt)
    with running(second):
        await step("charge", int, key=of_attempt)
    assert first.calls[0].key != second.calls[0].key
