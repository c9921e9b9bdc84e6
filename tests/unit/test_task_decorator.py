from __future__ import annotations

import importlib.util
import json
import sys
from datetime import timedelta

import pytest
from pydantic import BaseModel

from harness.fake_scope import FakeScope
from holdfast import AbortTaskRunError, Context, Retry, queue, registry, task
from holdfast.context import AbortSignal
from holdfast.errors import (
    DuplicateTaskError,
    ErrorInfo,
    InvalidDurationError,
    InvalidOutputError,
    InvalidPayloadError,
    NonDeterminismError,
    StepFailedError,
    TaskDefinitionError,
)
from holdfast.v1 import payload_pb2
from holdfast.v1.payload_pb2 import Payload


class Order(BaseModel):
    number: int


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    monkeypatch.setattr(registry, "_tasks", {})


def test_a_bare_decorator_takes_the_functions_name():
    @task
    async def export(payload: Order) -> str:
        return ""

    assert export.id == "export"
    assert export.is_async
    assert registry.get("export") is export


def test_the_definition_says_what_was_declared():
    @task(
        id="export",
        retry=Retry(max_attempts=5, factor=1.8),
        queue=queue("exports", concurrency_limit=5),
        max_duration="5m",
        timeout=timedelta(hours=1),
        ttl=60,
        max_recoveries=4,
    )
    async def export(payload: Order) -> list[int]:
        """Export the orders
        of a day.

        Details.
        """
        return []

    definition = export.definition()
    assert definition.id == "export"
    assert (definition.retry.max_attempts, definition.retry.factor) == (5, 1.8)
    assert (definition.queue.name, definition.queue.concurrency_limit) == ("exports", 5)
    assert (definition.max_duration.seconds, definition.timeout.seconds, definition.ttl.seconds) == (300, 3600, 60)
    assert definition.max_recoveries == 4
    assert definition.description == "Export the orders of a day."
    assert json.loads(definition.payload_schema)["required"] == ["number"]
    assert json.loads(definition.output_schema)["type"] == "array"


def test_the_calls_of_a_task_stay_calls():
    @task
    def double(payload: int) -> int:
        return payload * 2

    assert double(4) == 8


async def test_a_body_gets_what_its_signature_asks_for():
    seen: list[object] = []

    @task(id="all")
    async def everything(payload: Order, ctx: Context, signal: AbortSignal) -> int:
        seen.extend([ctx, signal])
        return payload.number

    @task(id="none")
    async def nothing() -> None:
        return None

    @task(id="ctx")
    def only_ctx(ctx: Context) -> str:
        return ctx.task.id

    scope = FakeScope()
    assert (await everything.execute(Payload(data=b'{"number": 7}'), scope)).data == b"7"
    assert seen == [scope.ctx, scope.signal]
    assert (await nothing.execute(Payload(), scope)).data == b"null"
    assert (await only_ctx.execute(Payload(), scope)).data == b'"a-task"'
    assert not only_ctx.is_async


@pytest.mark.parametrize("data", [b'{"number": "x"}', b"{}", b"null", b"{", b'{"number": NaN}'])
async def test_a_payload_that_does_not_fit_is_not_retried(data):
    @task
    async def export(payload: Order) -> None: ...

    with pytest.raises(InvalidPayloadError) as caught:
        await export.execute(Payload(data=data), FakeScope())
    error = export.describe_error(caught.value)
    assert error.kind == payload_pb2.TASK_ERROR_KIND_INVALID_PAYLOAD
    assert not error.retryable


async def test_an_output_that_does_not_fit_is_not_retried():
    @task
    async def export() -> int:
        return "three"  # type: ignore[return-value]

    with pytest.raises(InvalidOutputError) as caught:
        await export.execute(Payload(), FakeScope())
    error = export.describe_error(caught.value)
    assert error.kind == payload_pb2.TASK_ERROR_KIND_INVALID_OUTPUT
    assert not error.retryable


def test_errors_as_data():
    @task(retry=Retry(abort_on=KeyError))
    async def export() -> None: ...

    def kind_of(error: BaseException) -> tuple[int, bool]:
        described = export.describe_error(error)
        return described.kind, described.retryable

    assert kind_of(ValueError("x")) == (payload_pb2.TASK_ERROR_KIND_USER, True)
    assert kind_of(KeyError("x")) == (payload_pb2.TASK_ERROR_KIND_ABORTED, False)
    assert kind_of(AbortTaskRunError("x")) == (payload_pb2.TASK_ERROR_KIND_ABORTED, False)
    group = ExceptionGroup("g", [ValueError(), AbortTaskRunError("x")])
    assert kind_of(group) == (payload_pb2.TASK_ERROR_KIND_ABORTED, False)
    assert kind_of(NonDeterminismError("x")) == (payload_pb2.TASK_ERROR_KIND_NON_DETERMINISM, False)
    hopeless = StepFailedError("s", ErrorInfo("USER", "ValueError", "x", retryable=False))
    assert kind_of(hopeless) == (payload_pb2.TASK_ERROR_KIND_USER, False)


def test_the_text_of_errors_is_made_storable():
    @task
    async def export() -> None: ...

    class OddError(Exception):
        def __init__(self) -> None:
            self.details = {"code": 7}

        def __str__(self) -> str:
            return "nul \0 and \ud800" + "x" * 10_000

    error = export.describe_error(OddError())
    assert "\0" not in error.message
    assert len(error.message) == 4096
    assert error.type.endswith("OddError")
    assert json.loads(error.details.data) == {"code": 7}

    class WorseError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "cannot be shown" in export.describe_error(WorseError()).message


async def test_the_stack_begins_in_the_users_code():
    @task
    def export() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError) as caught:
        await export.execute(Payload(), FakeScope())
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # from the SDK on, as a worker sees it
    stack = export.describe_error(caught.value).stack
    assert "_task.py" not in stack
    assert "test_task_decorator.py" in stack


def test_two_functions_with_one_id_are_refused_naming_both_places():
    @task(id="export")
    async def one() -> None: ...

    with pytest.raises(DuplicateTaskError, match=r"(?s)one.*test_task_decorator.py:\d+.*two.*test_task_decorator.py"):

        @task(id="export")
        async def two() -> None: ...


def test_the_same_function_imported_again_is_fine(tmp_path):
    path = tmp_path / "jobs.py"
    path.write_text("from holdfast import task\n@task(id='export')\nasync def export() -> None: ...\n")
    for name in ("jobs", "__jobs_main__"):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        del sys.modules[name]
    assert len(registry.all_tasks()) == 1


@pytest.mark.parametrize(
    "options", [{"id": ""}, {"id": "a b"}, {"id": "x" * 129}, {"id": "é"}, {"retry": 3}, {"max_recoveries": 0},
                {"timeout": 0}]
)  # fmt: skip
def test_bad_declarations_are_refused(options):
    with pytest.raises(TaskDefinitionError):

        @task(**options)
        async def export() -> None: ...


def test_bad_durations_name_task_and_option():
    with pytest.raises(InvalidDurationError, match="'export': ttl"):

        @task(id="export", ttl="soon")
        async def export() -> None: ...


def test_more_than_one_payload_is_refused():
    with pytest.raises(TaskDefinitionError, match="'second'"):

        @task
        async def export(first: int, second: int) -> None: ...


def test_annotations_may_name_locals_and_what_comes_later():
    class Local(BaseModel):
        x: int

    @task(id="local")
    async def with_local(payload: Local) -> Later: ...

    assert "Local" in str(with_local.payload_codec.annotation)

    @task(id="nowhere")
    async def with_nothing(payload: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TaskDefinitionError, match="'nowhere'"):
        with_nothing.definition()


class Later(BaseModel):
    y: int
