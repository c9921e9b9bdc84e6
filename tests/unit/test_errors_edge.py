from __future__ import annotations

import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from sqlalchemy.exc import OperationalError

from holdfast.v1.error_reason_pb2 import ErrorReason
from holdfast_scheduler import errors
from holdfast_scheduler.model import ItemFault
from holdfast_scheduler.services.status import fault_status, status_of
from holdfast_scheduler.settings import Settings


def unpack(status: Status, kind: type) -> list[object]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


@pytest.mark.parametrize(
    ("error", "code", "reason", "detail"),
    [
        (errors.invalid("f", "is bad"), 3, "INVALID_ARGUMENT", details.BadRequest),
        (errors.too_large("f", "payload_bytes", 2, 1), 3, "TOO_LARGE", details.BadRequest),
        (errors.not_found("run", "run_1"), 5, "RUN_NOT_FOUND", details.ResourceInfo),
        (errors.not_found("task", "t"), 5, "TASK_NOT_FOUND", details.ResourceInfo),
        (errors.not_implemented("X"), 12, "NOT_IMPLEMENTED", None),
        (errors.StorageUnavailableError(), 14, "STORAGE_UNAVAILABLE", details.RetryInfo),
        (errors.OverloadedError(), 8, "LIMIT_EXCEEDED", details.QuotaFailure),
        (errors.OverloadedError(), 8, "LIMIT_EXCEEDED", details.RetryInfo),
        (errors.ShuttingDownError(), 14, "SHUTTING_DOWN", details.RetryInfo),
        (
            errors.RefusedError(ItemFault(9, "WRONG_STATUS", "no", {"run_id": "r"})),
            9,
            "WRONG_STATUS",
            details.PreconditionFailure,
        ),
    ],
)
def test_every_error_has_an_error_info_and_the_fitting_detail(
    error: errors.RequestError, code: int, reason: str, detail: type | None
) -> None:
    status = status_of(error)
    assert status.code == code
    (info,) = unpack(status, details.ErrorInfo)
    assert info.domain == "holdfast.dev"  # type: ignore[attr-defined]
    assert info.reason == reason  # type: ignore[attr-defined]
    assert f"ERROR_REASON_{reason}" in ErrorReason.keys()  # noqa: SIM118
    if detail is not None:
        assert len(unpack(status, detail)) == 1


def test_a_database_that_is_away_is_unavailable() -> None:
    status = status_of(OperationalError("SELECT 1", {}, Exception("connection refused")))
    assert status.code == 14
    assert "SELECT" not in status.message


def test_a_fault_of_the_scheduler_tells_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    status = status_of(KeyError("password=hunter2"))
    assert status.code == 13
    assert "hunter2" not in str(status)
    assert "hunter2" in caplog.text


def test_a_fault_without_facts() -> None:
    assert len(fault_status(ItemFault(3, "INVALID_KEY", "no")).details) == 1


def test_near_names() -> None:
    assert errors.near_names("exprt", ["send", "exports", "export"]) == ["export", "exports"]
    assert errors.near_names("zzz", ["export"]) == []
    fault = errors.not_found_fault("task", "exprt", ["export"])
    assert fault.message == "no worker has registered a task 'exprt'; did you mean 'export'?"
    assert fault.metadata == {"task_id": "exprt", "near": "export"}


def test_a_long_value_is_cut() -> None:
    assert len(errors.shown("x" * 10_000)) < 200


# --- settings: the address --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("listen", ["127.0.0.1:4653", "localhost:0", "[::1]:1", "127.9.9.9:65535"])
def test_loopback_needs_no_key(listen: str) -> None:
    Settings(listen=listen).host_and_port()


@pytest.mark.parametrize("listen", ["0.0.0.0:4653", "[::]:1", "10.0.0.1:1", "example.com:1"])
def test_beyond_loopback_needs_a_key_or_insecure(listen: str) -> None:
    with pytest.raises(errors.ListenError, match="HOLDFAST_API_KEY, or pass --insecure"):
        Settings(listen=listen).host_and_port()
    Settings(listen=listen, insecure=True).host_and_port()
    Settings(listen=listen, api_key="k").host_and_port()


@pytest.mark.parametrize("listen", ["", "4653", ":4653", "localhost", "localhost:", "localhost:x", "localhost:65536"])
def test_a_malformed_address(listen: str) -> None:
    with pytest.raises(errors.ListenError, match="not HOST:PORT"):
        Settings(listen=listen).host_and_port()


def test_settings_come_from_arguments_then_the_environment() -> None:
    environment = {"HOLDFAST_DATABASE_URL": "sqlite:///a", "HOLDFAST_LISTEN": "localhost:1", "HOLDFAST_API_KEY": "k"}
    found = Settings.from_environment(environment=environment, listen="localhost:2")
    assert (found.database_url, found.listen, found.api_key) == ("sqlite:///a", "localhost:2", "k")
    assert Settings.from_environment(environment={}) == Settings()
