"""Bad input of every kind gets a clear error, and a run in flight beside it is not disturbed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from harness.processes import Deployment
from harness.stage import Stage, assert_undisturbed
from harness.waiting import DEADLINE_S
from holdfast import ids
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import ItemError, TriggerItem
from holdfast.v1.worker_service_pb2 import ConnectRequest, Hello
from holdfast.v1.worker_service_pb2_grpc import WorkerServiceStub

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One scheduler and worker for all: bad input must not need a new one."""
    folder = tmp_path_factory.mktemp("stage")

    def deploy(url: str, environment: dict[str, str]) -> Deployment:
        (folder / "deployment").mkdir()
        return Deployment(folder / "deployment", url, environment)

    stage = Stage(folder, deploy, f"sqlite:///{folder / 'holdfast.sqlite3'}")
    stage.ready()
    yield stage
    stage.deployment.close()
    stage.close()


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    """With a run of somebody else in flight, which completes afterwards as if nothing had been."""
    run_id = shared.new_run("started")
    shared.runs.trigger("journey", {}, run_id)
    shared.gates.reached(run_id, "started")
    parked = shared.runs.trigger("journey", {"wait": 0.3})
    yield shared
    shared.gates.open(run_id, "started")
    for each in (run_id, parked):
        assert_undisturbed(shared.runs.completed(each))
        assert set(shared.counts(each).values()) == {1}


def refused_item(stage: Stage, task: str = "steady", data: bytes = b"null", **fields: object) -> ItemError:
    """The error of an item, which leaves the good one beside it alone."""
    bad = TriggerItem(task_id=task, payload=Payload(data=data))
    for name, value in fields.items():
        getattr(bad.options, name).extend(value)
    good = TriggerItem(task_id="steady", run_id=ids.new_run_id(), payload=Payload(data=b"null"))
    answer = stage.runs.stub.Trigger(api.TriggerRequest(items=[bad, good]), timeout=DEADLINE_S)
    assert answer.outcomes[0].WhichOneof("outcome") == "error", answer
    stage.runs.completed(answer.outcomes[1].handle.run_id)
    found: ItemError = answer.outcomes[0].error
    return found


def script(stage: Stage, name: str, text: str) -> str:
    path = stage.deployment.folder / name
    path.write_text(text)
    return str(path)


def said(stage: Stage, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line that the command line says; never a traceback."""
    done = stage.deployment.holdfast(*arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


# -- what users type


def test_malformed_json(stage: Stage) -> None:
    code, line = said(stage, "trigger", "journey", "{wait: 1")
    assert code == 2
    assert "not JSON" in line
    assert "line 1" in line


def test_malformed_json_past_the_command_line(stage: Stage) -> None:
    """Whoever speaks gRPC can send anything as a payload: the run fails, with the reason, at once and alone."""
    run_id = ids.new_run_id()
    item = TriggerItem(task_id="strict", run_id=run_id, payload=Payload(data=b"{wait: 1"))
    stage.runs.stub.Trigger(api.TriggerRequest(items=[item]), timeout=DEADLINE_S)
    run = stage.runs.end(run_id)
    assert (run.status, run.attempt) == ("FAILED", 1)
    assert run.error is not None
    assert "payload of task 'strict'" in run.error.message
    assert "enter" not in stage.counts(run_id)


def test_unknown_task(stage: Stage) -> None:
    error = refused_item(stage, "jurney")
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND.value[0], "TASK_NOT_FOUND")
    assert "did you mean 'journey'?" in error.message
    code, line = said(stage, "trigger", "jurney")
    assert code == 3
    assert "journey" in line


def test_payload_against_the_schema(stage: Stage) -> None:
    run = stage.runs.end(stage.runs.trigger("strict", {"wait": "soon"}))
    assert (run.status, run.attempt) == ("FAILED", 1)
    assert run.error is not None
    assert "wait" in run.error.message
    assert "number" in run.error.message


def test_payload_of_five_megabytes(stage: Stage) -> None:
    error = refused_item(stage, data=b'"' + b"x" * 5 * MIB + b'"')
    assert error.reason == "TOO_LARGE"
    assert "payload_bytes" in error.message
    assert "1,048,576" in error.message
    path = script(stage, "large.json", '"' + "x" * 5 * MIB + '"')
    code, line = said(stage, "trigger", "steady", f"@{path}")
    assert code in (2, 5)
    assert len(line) < 1000
    assert "5,242,882" in line or "5242882" in line


def test_request_above_the_limit_of_messages(stage: Stage) -> None:
    items = [TriggerItem(task_id="steady", payload=Payload(data=b"x" * MIB)) for _ in range(21)]
    with pytest.raises(grpc.RpcError) as caught:
        stage.runs.stub.Trigger(api.TriggerRequest(items=items), timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_character_zero_in_a_tag(stage: Stage) -> None:
    error = refused_item(stage, tags=["a\0b"])
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "tags" in error.message
    assert "U+0000" in error.message


BODIES = """
from datetime import datetime
from holdfast import task, wait

@task(id="naive")
async def naive() -> None:
    await wait.until(datetime(2030, 1, 1))

@task(id="bad-duration")
async def bad_duration() -> None:
    await wait.for_("1 fortnight")

@task(id="journey")
async def journey() -> None: ...
"""


@pytest.mark.parametrize(("task", "says"), [("naive", "time zone"), ("bad-duration", "1 fortnight")])
def test_bad_times_in_a_body(stage: Stage, task: str, says: str) -> None:
    path = script(
        stage, "bad_times.py", BODIES.replace('id="journey"', 'id="other"').replace("def journey", "def other")
    )
    worker = stage.deployment.start_worker(path, name=f"times-{task}")
    try:
        stage.deployment.wait_for_workers(task)
        run_id = stage.runs.trigger(task)
        stage.runs.until(run_id, "DELAYED", "FAILED")  # it raised: a retry waits, or there was none
        run = stage.runs.get(run_id)
        error = run.error or run.attempts[0].error
        assert error is not None
        assert says in error.message
        if not run.is_final:
            stage.runs.cancel(run_id)
    finally:
        worker.kill()


# -- what operators start


def test_duplicate_task_id(stage: Stage) -> None:
    path = script(
        stage,
        "twice.py",
        'from holdfast import task\n@task(id="twice")\ndef one(): ...\n@task(id="twice")\ndef two(): ...\n',
    )
    code, line = said(stage, "worker", path)
    assert code == 2
    assert "twice" in line
    assert "twice.py" in line


@pytest.mark.parametrize("text", ["def broken(:\n", "import no_such_module\n", "x = 1\n"])
def test_target_that_cannot_be_used(stage: Stage, text: str) -> None:
    code, line = said(stage, "worker", script(stage, "unusable.py", text))
    assert code == 2
    assert line.strip()


def test_worker_of_another_protocol(stage: Stage) -> None:
    hello = ConnectRequest(hello=Hello(protocol_major=2, worker_name="future", version="1"))
    with pytest.raises(grpc.RpcError) as caught:
        next(iter(WorkerServiceStub(stage.deployment.channel).Connect(iter([hello]), timeout=DEADLINE_S)))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the worker speaks protocol 2.0, this scheduler 1.0" in str(caught.value.details())


def test_stream_that_does_not_say_hello(stage: Stage) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(iter(WorkerServiceStub(stage.deployment.channel).Connect(iter([ConnectRequest()]), timeout=DEADLINE_S)))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "hello" in str(caught.value.details())


def test_second_scheduler_on_the_same_file(stage: Stage) -> None:
    code, line = said(stage, "scheduler", "--database", stage.deployment.database_url, "--listen", "127.0.0.1:0")
    assert code == 6
    assert line.count("\n") == 1
    assert "another scheduler uses" in line


def test_second_scheduler_on_the_same_port(stage: Stage, tmp_path: Path) -> None:
    code, line = said(
        stage, "scheduler", "--database", f"sqlite:///{tmp_path / 'x.db'}", "--listen", stage.deployment.address
    )
    assert code == 6
    assert "--listen" in line


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS client
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        os.urandom(65536),
        b"",
    ],
    ids=["http1", "tls", "http2", "random", "nothing"],
)
def test_garbage_on_the_port(stage: Stage, garbage: bytes) -> None:
    connections = [socket.create_connection(("127.0.0.1", stage.deployment.port), timeout=10) for _ in range(10)]
    for connection in connections:
        try:
            connection.sendall(garbage)
        except OSError:
            pass  # hung up on already
    stage.runs.completed(stage.runs.trigger("steady"))
    for connection in connections:
        connection.close()


def test_garbage_in_a_message(stage: Stage) -> None:
    """Bytes that are no protobuf message, in a proper call."""
    call: Callable[..., bytes] = stage.deployment.channel.unary_unary(
        "/holdfast.v1.RunService/Trigger", request_serializer=None, response_deserializer=None
    )
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff\xff", timeout=DEADLINE_S)
    stage.runs.completed(stage.runs.trigger("steady"))
