"""Workers of other protocol versions at the door: what is newer is ignored, another major version is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from harness.processes import Deployment
from holdfast.v1 import worker_service_pb2 as w
from holdfast.v1.task_pb2 import TaskDefinition
from holdfast_scheduler.settings import PROTOCOL_MAJOR, PROTOCOL_MINOR

METHOD = "/holdfast.v1.WorkerService/Connect"
UNKNOWN_FIELD = bytes([0xFA, 0xFF, 0x03, 0x05]) + b"later"  # number 8191, a text: no message has it
TIMEOUT_S = 30.0


@pytest.fixture
def site(deploy: Callable[..., Deployment], sqlite_url: str) -> Deployment:
    made = deploy(sqlite_url)
    made.start_scheduler()
    return made


def hello(**fields: object) -> w.Hello:
    """A worker's first words."""
    known = {"protocol_major": PROTOCOL_MAJOR, "protocol_minor": PROTOCOL_MINOR, "worker_name": "w", "version": "1"}
    return w.Hello(**{**known, "tasks": [TaskDefinition(id="t")], **fields})  # type: ignore[arg-type]


def greet(site: Deployment, frame: bytes) -> w.Welcome:
    """Open a stream with these bytes. Returns the answer. Raises: grpc.RpcError."""
    connect = site.channel.stream_stream(METHOD, lambda raw: raw, w.ConnectResponse.FromString)

    def frames() -> Iterator[bytes]:
        yield frame
        yield w.ConnectRequest(goodbye=w.Goodbye()).SerializeToString()

    answers = connect(frames(), timeout=TIMEOUT_S)
    return next(iter(answers)).welcome


def test_a_later_minor_version_is_welcome(site: Deployment) -> None:
    frame = w.ConnectRequest(hello=hello(protocol_minor=PROTOCOL_MINOR + 41)).SerializeToString()
    assert greet(site, frame).session_id


def test_features_that_the_scheduler_does_not_know_are_not_agreed_on(site: Deployment) -> None:
    frame = w.ConnectRequest(hello=hello(features=["telepathy"])).SerializeToString()
    welcome = greet(site, frame)
    assert welcome.session_id
    assert "telepathy" not in welcome.features


def test_unknown_fields_are_ignored(site: Deployment) -> None:
    raw = hello().SerializeToString() + UNKNOWN_FIELD
    definition = TaskDefinition(id="u").SerializeToString() + UNKNOWN_FIELD
    raw += bytes([9 << 3 | 2, len(definition)]) + definition
    size = len(raw)
    assert size < 128
    assert greet(site, bytes([1 << 3 | 2, size]) + raw + UNKNOWN_FIELD).session_id


@pytest.mark.parametrize("major", [PROTOCOL_MAJOR - 1, PROTOCOL_MAJOR + 1])
def test_another_major_version_is_refused(site: Deployment, major: int) -> None:
    frame = w.ConnectRequest(hello=hello(protocol_major=major)).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        greet(site, frame)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
    said = caught.value.details()  # type: ignore[attr-defined]
    assert f"speaks protocol {major}.{PROTOCOL_MINOR}" in said
    assert "same major version" in said


def test_a_policy_that_the_scheduler_does_not_know_is_refused_by_name(site: Deployment) -> None:
    task = TaskDefinition(id="t", version_policy="sometimes")
    frame = w.ConnectRequest(hello=hello(tasks=[task])).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        greet(site, frame)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert "tasks.version_policy" in caught.value.details()  # type: ignore[attr-defined]
