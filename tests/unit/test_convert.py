from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import payloads
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import (
    IdempotencyKey,
    KeyPart,
    ParentEnd,
    RunHandle,
    RunStatus,
    TriggerItem,
    TriggerOptions,
)
from holdfast.v1.run_service_pb2 import TriggerResponse
from holdfast_scheduler import convert, ids, model
from holdfast_scheduler.errors import RefusedError
from holdfast_scheduler.model import Handle, ItemFault
from holdfast_scheduler.settings import Limits

LIMITS = Limits()
DAY = 86_400 * 1_000_000


def make(**fields: object) -> TriggerItem:
    item = TriggerItem(task_id="export", payload=Payload(data=b'{"a":1}'))
    item.MergeFrom(TriggerItem(**fields))  # type: ignore[arg-type]
    return item


def test_a_plain_item() -> None:
    raw = ids.new_id()
    item = make(run_id=ids.run_text(raw), fingerprint=b"f")
    run = convert.new_run(item, limits=LIMITS)
    assert run.error is None
    assert (run.id, run.task, run.fingerprint, run.id_chosen) == (raw, "export", b"f", True)
    assert Payload.FromString(run.payload) == item.payload
    assert (run.key, run.tags, run.options, run.trace) == (None, [], b"", b"")


def test_what_the_client_leaves_out_is_chosen() -> None:
    run = convert.new_run(make(), limits=LIMITS)
    assert len(run.id) == 16
    assert not run.id_chosen
    assert run.fingerprint == payloads.fingerprint("export", b'{"a":1}')  # what the SDK sends


def test_all_options() -> None:
    item = make(trace_context={"traceparent": "00-1"})
    options = item.options
    options.delay.FromMilliseconds(1500)
    options.ttl.FromSeconds(60)
    options.timeout.FromSeconds(120)
    options.priority = 2.5
    options.queue, options.concurrency_key, options.version = "q", "k", "v"
    options.tags.extend(["a", "b", "a"])
    options.metadata = b'{"page": 1}'
    options.max_attempts = 7
    options.on_parent_end = ParentEnd.PARENT_END_DETACH
    run = convert.new_run(item, limits=LIMITS)
    assert run.error is None
    assert (run.delay_us, run.ttl_us, run.timeout_us) == (1_500_000, 60_000_000, 120_000_000)
    assert (run.priority_us, run.queue, run.lane, run.version) == (2_500_000, "q", "k", "v")
    assert (run.tags, run.metadata, run.max_attempts, run.on_parent_end) == (["a", "b"], b'{"page": 1}', 7, 2)
    assert TriggerOptions.FromString(run.options) == options
    assert convert.trace_map(run.trace) == {"traceparent": "00-1"}


def test_debounce() -> None:
    item = make()
    debounce = item.options.debounce
    debounce.key = "d"
    debounce.delay.FromSeconds(5)
    found = convert.new_run(item, limits=LIMITS).debounce
    assert found is not None
    assert (found.key, found.delay_us, found.leading, found.max_us) == ("d", 5_000_000, False, None)
    debounce.mode = "leading"
    debounce.max_delay.FromSeconds(60)
    found = convert.new_run(item, limits=LIMITS).debounce
    assert found is not None
    assert (found.leading, found.max_us) == (True, 60_000_000)
    item.options.delay.FromSeconds(1)
    fault = convert.new_run(item, limits=LIMITS).error
    assert fault is not None
    assert "options.debounce" in fault.message


def test_delay_until() -> None:
    item = make()
    item.options.delay_until.FromSeconds(1_800_000_000)
    assert convert.new_run(item, limits=LIMITS).start_at == 1_800_000_000_000_000


def _with_options(**fields: object) -> Callable[[], TriggerItem]:
    return lambda: make(options=TriggerOptions(**fields))  # type: ignore[arg-type]


def _both_delays() -> TriggerItem:
    item = make()
    item.options.delay.FromSeconds(1)
    item.options.delay_until.FromSeconds(1)
    return item


def _duration(name: str, seconds: int) -> Callable[[], TriggerItem]:
    def build() -> TriggerItem:
        item = make()
        getattr(item.options, name).FromSeconds(seconds)
        return item

    return build


def _debounce(mode: str = "", key: str = "k", delay: int = 1) -> Callable[[], TriggerItem]:
    def build() -> TriggerItem:
        item = make()
        item.options.debounce.key, item.options.debounce.mode = key, mode
        item.options.debounce.delay.FromSeconds(delay)
        return item

    return build


def _key(*parts: KeyPart, scope: int = 0) -> Callable[[], TriggerItem]:
    return lambda: make(idempotency_key=IdempotencyKey(parts=parts, scope=scope))  # type: ignore[arg-type]


TEXT = KeyPart(text="a")


@pytest.mark.parametrize(
    ("build", "reason", "says"),
    [
        (lambda: TriggerItem(), "INVALID_ARGUMENT", "task_id: is empty"),
        (lambda: make(task_id="a\0b"), "INVALID_ARGUMENT", "U\\+0000"),
        (lambda: make(task_id="a" * 257), "TOO_LARGE", "name_length"),
        (lambda: make(run_id="run_1"), "INVALID_ARGUMENT", "run_id: 'run_1' is not an id"),
        (
            lambda: make(payload=Payload(data=b"x" * (5 << 20))),
            "TOO_LARGE",
            "5,242,880 bytes .* payload_bytes of 1,048",
        ),
        (
            lambda: make(payload=Payload(data=b"x", content_type="y" * (2 << 20))),
            "TOO_LARGE",
            "payload.meta",
        ),
        (lambda: make(fingerprint=b"x" * 65), "TOO_LARGE", "fingerprint"),
        (lambda: make(trace_context={"a": "b" * 9000}), "TOO_LARGE", "trace_bytes"),
        (_with_options(tags=["a\0"]), "INVALID_ARGUMENT", "options.tags.*U\\+0000"),
        (_with_options(tags=[""]), "INVALID_ARGUMENT", "empty tag"),
        (_with_options(tags=["x" * 129]), "TOO_LARGE", "tag_length"),
        (_with_options(tags=[str(n) for n in range(11)]), "TOO_LARGE", "11 tags is more than the limit tags of 10"),
        (_with_options(priority=math.nan), "INVALID_ARGUMENT", "priority"),
        (_with_options(priority=math.inf), "INVALID_ARGUMENT", "priority"),
        (_with_options(priority=1e300), "INVALID_ARGUMENT", "priority"),
        (_with_options(queue="\0"), "INVALID_ARGUMENT", "options.queue"),
        (_with_options(concurrency_key="\0"), "INVALID_ARGUMENT", "options.concurrency_key"),
        (_with_options(version="\0"), "INVALID_ARGUMENT", "options.version"),
        (_with_options(max_attempts=10_001), "INVALID_ARGUMENT", "max_attempts"),
        (_with_options(on_parent_end=9), "INVALID_ARGUMENT", "ParentEnd"),
        (_with_options(metadata=b"[]"), "INVALID_ARGUMENT", "must be an object"),
        (_with_options(metadata=b"{"), "INVALID_ARGUMENT", "not JSON"),
        (_with_options(metadata=b'{"a": NaN}'), "INVALID_ARGUMENT", "NaN"),
        (_with_options(metadata=b'"\xff"'), "INVALID_ARGUMENT", "UTF-8"),
        (_with_options(metadata=b'{"a":' * 60_000), "TOO_LARGE", "metadata_bytes"),
        (_with_options(metadata=b'{"a":' * 50_000), "INVALID_ARGUMENT", "not JSON"),
        (_both_delays, "INVALID_ARGUMENT", "excludes options.delay"),
        (_duration("delay", -1), "INVALID_ARGUMENT", "options.delay: -1 s is too short"),
        (_duration("ttl", 0), "INVALID_ARGUMENT", "options.ttl: 0 s is too short"),
        (_duration("timeout", -5), "INVALID_ARGUMENT", "options.timeout"),
        (_duration("max_duration", 0), "INVALID_ARGUMENT", "options.max_duration"),
        (_duration("delay", 10**11), "INVALID_ARGUMENT", "duration_us"),
        (_debounce(mode="sideways"), "INVALID_ARGUMENT", "'sideways'"),
        (_debounce(key=""), "INVALID_ARGUMENT", "debounce.key"),
        (_debounce(delay=0), "INVALID_ARGUMENT", "debounce.delay"),
        (_key(), "INVALID_KEY", "no parts"),
        (_key(KeyPart()), "INVALID_KEY", "neither a text"),
        (_key(KeyPart(text="x" * 5000)), "TOO_LARGE", "key_bytes"),
        (_key(*[TEXT] * 33), "TOO_LARGE", "key_parts"),
        (_key(TEXT, scope=model.SCOPE_RUN), "INVALID_KEY", "only inside a run"),
        (_key(TEXT, scope=model.SCOPE_ATTEMPT), "INVALID_KEY", "only inside a run"),
        (_key(TEXT, scope=9), "INVALID_KEY", "KeyScope"),
    ],
)
def test_a_malformed_item_fails_alone(build: Callable[[], TriggerItem], reason: str, says: str) -> None:
    run = convert.new_run(build(), limits=LIMITS)
    assert run.error is not None
    assert run.error.reason == reason
    assert run.error.code == 3
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(run.error.message)


def test_a_payload_of_exactly_the_limit_is_accepted() -> None:
    assert convert.new_run(make(payload=Payload(data=b"x" * (1 << 20))), limits=LIMITS).error is None


# --- keys -------------------------------------------------------------------------------------------------------------
def test_a_key_holds_30_days_by_default() -> None:
    use = convert.key_use(IdempotencyKey(parts=[TEXT]), limits=LIMITS)
    assert (use.ttl_us, use.scope, use.parts) == (30 * DAY, 0, b"t1:a")


def test_a_key_inside_a_run_may_have_any_scope() -> None:
    run = convert.new_run(_key(TEXT, scope=model.SCOPE_ATTEMPT)(), limits=LIMITS, in_run=True)
    assert run.key is not None
    assert run.key.scope == model.SCOPE_ATTEMPT


PARTS = st.one_of(
    st.builds(lambda text: KeyPart(text=text), st.text(max_size=8)),
    st.builds(lambda number: KeyPart(number=number), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda flag: KeyPart(flag=flag), st.booleans()),
)
KEYS = st.lists(PARTS, min_size=1, max_size=5)


@given(KEYS, KEYS)
def test_different_parts_have_different_encodings(one: list[KeyPart], other: list[KeyPart]) -> None:
    encoded = [convert.key_parts(IdempotencyKey(parts=parts), limits=LIMITS) for parts in (one, other)]
    assert (encoded[0] == encoded[1]) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["a-b"]),
        ([1], ["1"]),
        ([True], [1]),
        (["t1:a"], ["a"]),
        (["a", ""], ["a"]),
        ([12], [1, 2]),
    ],
)
def test_the_pairs_that_are_confused_elsewhere(one: list[object], other: list[object]) -> None:
    def encode(parts: list[object]) -> bytes:
        fields = {bool: "flag", int: "number", str: "text"}
        message = IdempotencyKey(parts=[KeyPart(**{fields[type(part)]: part}) for part in parts])  # type: ignore[arg-type]
        return convert.key_parts(message, limits=LIMITS)

    assert encode(one) != encode(other)


# --- the rest ---------------------------------------------------------------------------------------------------------
def test_outcomes() -> None:
    raw = ids.new_id()
    response = TriggerResponse()
    fault = ItemFault(5, "TASK_NOT_FOUND", "no", {"near": "x"})
    convert.add_outcomes(response, [Handle(raw), Handle(raw, True), Handle(raw, True, True), fault])
    made, cached, differing = (one.handle for one in response.outcomes[:3])
    assert made == RunHandle(run_id=ids.run_text(raw))
    assert cached == RunHandle(run_id=ids.run_text(raw), is_cached=True)
    assert differing == RunHandle(run_id=ids.run_text(raw), is_cached=True, payload_differs=True)
    error = response.outcomes[3].error
    assert (error.code, error.reason, error.message, dict(error.metadata)) == (5, "TASK_NOT_FOUND", "no", {"near": "x"})


def test_namespace() -> None:
    assert convert.namespace_from("", LIMITS) == "default"
    with pytest.raises(RefusedError):
        convert.namespace_from("a\0", LIMITS)


def test_page_size() -> None:
    assert [convert.page_size_from(size, 50, LIMITS) for size in (0, 1, 5000)] == [50, 1, 1000]
    with pytest.raises(RefusedError, match="negative"):
        convert.page_size_from(-1, 50, LIMITS)


def test_statuses_equal_the_contract() -> None:
    names = {f"RUN_STATUS_{name}": number for number, name in model.STATUS_NAMES.items()}
    assert names == {name: number for name, number in RunStatus.items() if number}
