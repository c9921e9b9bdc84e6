from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from pydantic import BaseModel

from harness.fake_scope import FakeScope, running
from holdfast import AbortTaskRunError, Retry, StepFailedError, registry, runs, step, task, tasks, wait
from holdfast.errors import InRunError, InvalidArgumentError, NotInRunError, PayloadError, StepAbortedError
from holdfast.v1 import payload_pb2, run_pb2
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import Checkpoint


class Receipt(BaseModel):
    number: int


@pytest.fixture
def scope(monkeypatch):
    monkeypatch.setattr(registry, "_tasks", {})
    with running(FakeScope()) as bound:
        yield bound


async def charge(amount: int) -> Receipt:
    return Receipt(number=amount)


async def test_the_result_is_recorded_and_decoded_by_the_return_annotation(scope):
    assert await step("charge", charge, 5) == Receipt(number=5)
    (call,) = scope.calls
    assert call.kind == run_pb2.CHECKPOINT_KIND_STEP
    assert call.record.name == "charge"
    assert call.record.WhichOneof("kind") == "step"
    assert call.key is None


async def test_the_first_result_looks_like_a_recorded_one(scope):
    def pairs():
        return {"pair": (1, 2)}

    assert await step("pairs", pairs) == {"pair": [1, 2]}


async def test_a_recorded_result_is_not_run_again(scope):
    scope.answers["charge"] = Checkpoint(
        status=run_pb2.CHECKPOINT_STATUS_SUCCEEDED, value=Payload(data=b'{"number": 9}')
    )
    ran = []
    assert await step("charge", functools.partial(charge, 1), key="k") == Receipt(number=9)
    assert not ran


async def test_identity_is_taken_when_called_not_when_awaited(scope):
    first, second = step("a", charge, 1), step("b", charge, 2)
    assert [call.record.name for call in scope.calls] == ["a", "b"]
    assert await asyncio.gather(second, first) == [Receipt(number=2), Receipt(number=1)]


async def test_def_functions_run_in_a_thread(scope):
    assert await step("thread", lambda: threading.current_thread().name) != threading.current_thread().name


async def test_arguments_make_the_fingerprint(scope):
    async def anything(*args, **kwargs) -> None: ...

    class Session:
        pass

    async def print_of(*args, **kwargs) -> bytes:
        await step("s", anything, *args, **kwargs)
        return scope.calls[-1].record.fingerprint

    assert await print_of(1) != await print_of("1")
    assert await print_of(1) != await print_of(True)
    assert await print_of(a=1) != await print_of({"a": 1})
    assert await print_of({"a": 1, "b": 2}) == await print_of({"b": 2, "a": 1})
    assert await print_of({"x", "y", "z"}) == await print_of({"z", "y", "x"})
    assert await print_of(Receipt(number=1)) != await print_of(Receipt(number=2))
    assert await print_of(Session()) == await print_of(Session())
    assert await print_of(float("nan")) == await print_of(float("nan"))


async def test_a_keyed_step_is_known_by_name_and_key_alone(scope):
    await step("charge", charge, 1, key="order-1")
    await step("charge", charge, 2, key="order-1")
    one, two = scope.calls
    assert one.key == two.key
    assert not one.record.fingerprint


async def test_a_failure_is_recorded_as_data(scope):
    def fail() -> None:
        raise ValueError("no money")

    with pytest.raises(StepFailedError) as caught:
        await step("charge", fail)
    assert (caught.value.type, caught.value.message, caught.value.step) == ("ValueError", "no money", "charge")
    assert caught.value.retryable
    assert not isinstance(caught.value, AbortTaskRunError)


async def record_of(scope: FakeScope, *args: object, **kwargs: object) -> Checkpoint:
    coroutine = step(*args, **kwargs)  # type: ignore[call-overload]
    coroutine.close()
    perform = scope.calls[-1].perform
    assert perform is not None
    return await perform()


@pytest.mark.filterwarnings("ignore:coroutine 'FakeScope")
async def test_what_makes_a_failure_permanent(scope):
    @task(id="a-task", retry=Retry(abort_on=KeyError))
    async def a_task() -> None: ...

    def fail(error: Exception) -> None:
        raise error

    assert not (await record_of(scope, "s", fail, ValueError())).permanent
    assert (await record_of(scope, "s", fail, ValueError(), on_failure="remember")).permanent
    assert (await record_of(scope, "s", fail, AbortTaskRunError("stop"))).permanent
    assert (await record_of(scope, "s", fail, OSError(), retry=Retry(abort_on=OSError))).permanent
    by_task = await record_of(scope, "s", fail, KeyError())
    assert by_task.permanent
    assert by_task.error.kind == payload_pb2.TASK_ERROR_KIND_ABORTED


async def test_an_abort_inside_aborts_the_run_if_uncaught(scope):
    def fail() -> None:
        raise AbortTaskRunError("card stolen", details={"card": 1})

    with pytest.raises(AbortTaskRunError) as caught:
        await step("charge", fail)
    assert isinstance(caught.value, StepAbortedError)
    assert caught.value.details == {"card": 1}


async def test_retries_within_the_attempt(scope):
    tries = []

    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        return len(tries)

    assert await step("s", flaky, retry=Retry(max_attempts=3, min_timeout=0, max_timeout=0)) == 3
    tries.clear()
    with pytest.raises(StepFailedError):
        await step("s", flaky, retry=Retry(max_attempts=3, min_timeout=0, max_timeout=0, on=ValueError))
    assert len(tries) == 1


async def test_a_timeout_ends_the_try(scope):
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StepFailedError) as caught:
        await step("s", hang, timeout=0.01)
    assert caught.value.error.kind == "TIMED_OUT"

    async def own() -> None:
        raise TimeoutError("mine")

    with pytest.raises(StepFailedError) as caught:
        await step("s", own, timeout="1m")
    assert caught.value.error.kind == "USER"


async def test_cancellation_passes(scope):
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    running_step = asyncio.create_task(step("s", hang))
    await started.wait()
    running_step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_step


async def test_a_result_that_cannot_be_recorded_fails_for_good(scope):
    def misfit() -> int:
        return "three"  # type: ignore[return-value]

    with pytest.raises(StepFailedError) as caught:
        await step("s", misfit)
    assert caught.value.error.kind == "INVALID_OUTPUT"

    def huge() -> str:
        return "x" * 300_000

    with pytest.raises(StepFailedError, match="step result limit of 262,144"):
        await step("s", huge)


async def test_a_return_type_that_cannot_be_recorded_is_told_before_the_effect(scope):
    ran = []

    def opaque() -> threading.Thread:
        ran.append(1)
        return threading.current_thread()

    with pytest.raises(PayloadError, match="result of step 's'"):
        step("s", opaque)
    assert not ran


async def test_a_durable_call_inside_a_step_is_refused(scope):
    async def nested() -> None:
        await wait.for_(seconds=1)

    with pytest.raises(StepFailedError, match="inside the step 's'"):
        await step("s", nested)

    def nested_in_thread() -> None:
        tasks.trigger("x")

    with pytest.raises(StepFailedError, match="inside the step 's'"):
        await step("s", nested_in_thread)


async def test_bad_use_is_told(scope):
    with pytest.raises(InvalidArgumentError, match="on_failure"):
        step("s", charge, 1, on_failure="ignore")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgumentError, match="step name"):
        step("", charge, 1)


async def test_a_thread_cannot_await(scope):
    def body() -> None:
        with pytest.raises(InRunError, match=r"holdfast\.sync"):
            step("s", charge, 1)

    await asyncio.to_thread(body)


async def test_outside_a_run_a_step_is_refused():
    with pytest.raises(NotInRunError, match="simply call the function"):
        step("s", charge, 1)
    assert runs.RunStatus.COMPLETED.is_final
