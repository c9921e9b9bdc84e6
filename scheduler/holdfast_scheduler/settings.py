"""Every number and switch of the scheduler, each with a name and a default."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_scheduler.errors import ListenError, SettingError

DEFAULT_DATABASE_URL: Final = "sqlite:///holdfast.db"
DEFAULT_LISTEN: Final = "127.0.0.1:4653"
PROTOCOL_MAJOR: Final = 1
PROTOCOL_MINOR: Final = 0

MICROSECONDS: Final = 1_000_000
_DURATIONS: Final = (
    "lease",
    "renew_interval",
    "reconnect_grace",
    "hold",
    "cancel_grace",
    "resume_patience",
    "version_patience",
    "retention_interval",
    "stop_grace",
    "misfire_grace",
)
"""Settings that HOLDFAST_LEASE and so on may change."""
DEFAULT_RETENTION: Final = "30d"
_RETENTION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", re.ASCII)
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LONGEST_RETENTION_S: Final = 36_600.0 * 86_400
_LONGEST_S: Final = 86_400.0
_RENEWALS_PER_LEASE: Final = 0.3
_LOOKS_PER_LEASE: Final = 0.2
_DAY: Final = 86_400 * MICROSECONDS
_KIB: Final = 1024
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler accepts. An error that a limit causes names the field."""

    payload_bytes: int = _MIB
    step_result_bytes: int = 256 * _KIB
    metadata_bytes: int = 256 * _KIB
    frame_bytes: int = 4 * _MIB  # hard; frames aim at a quarter of it
    batch_items: int = 1_000
    batch_bytes: int = 16 * _MIB
    batch_result_bytes: int = 32 * _MIB  # what a run that waits for a batch is given in all
    checkpoints: int = 10_000
    log_records: int = 20_000  # of one run; the rest is counted
    depth: int = 32
    queue_depth: int = 1_000_000  # queued runs of one queue, where the queue has no depth limit of its own
    queue_limit: int = 1_000_000  # any limit of a queue
    tags: int = 10
    tag_length: int = 128  # characters
    name_length: int = 256  # characters of a task id, queue, concurrency key, version, namespace
    key_parts: int = 32
    key_bytes: int = 4 * _KIB  # of the encoded parts
    key_ttl_us: int = 30 * _DAY  # the default, not a bound
    fingerprint_bytes: int = 64
    trace_bytes: int = 8 * _KIB
    error_bytes: int = 256 * _KIB  # of a serialized TaskError
    max_attempts: int = 10_000
    priority_s: float = 1e9
    duration_us: int = 100 * 366 * _DAY  # any delay, timeout or time to live
    page_size: int = 1_000
    page_bytes: int = 3 * _MIB  # a page ends early rather than grow beyond this
    filter_length: int = 4_096  # characters
    scanned_runs: int = 10_000  # runs that one page of a list looks at; the page token goes on from there
    scanned_metadata_bytes: int = 8 * _MIB  # metadata that one page of a list looks at
    awaited_runs: int = 10_000  # of one AwaitRuns stream
    watched_runs: int = 1_000  # members that one WatchRuns stream of a tag or batch shows, newest first
    wait_us: int = 300 * MICROSECONDS  # longest WaitRun
    schedules: int = 100_000  # of a namespace
    misfire_cap: int = 100  # due instants of one schedule that fire late at once, whatever the policy
    schedule_waiting: int = 100  # instants of one schedule that wait for the end of the run before


@dataclass(frozen=True, slots=True)
class Settings:
    """One scheduler process. Durations are seconds."""

    database_url: str = DEFAULT_DATABASE_URL
    listen: str = DEFAULT_LISTEN
    insecure: bool = False  # listen beyond loopback without an API key
    api_key: str = ""
    reflection: bool = True
    limits: Limits = field(default_factory=Limits)

    lease: float = 10.0
    renew_interval: float = 3.0
    reconnect_grace: float = 0.3
    hold: float = 300.0
    cancel_grace: float = 30.0
    resume_patience: float = 5.0
    wake_ahead: float = 0.1  # how long before the end of its wait a parked body may be woken; its worker holds it
    look_interval: float = 1.0  # how often overdue timers and other replicas' commits are looked for, at the least
    version_patience: float = 5.0  # how long after the last worker of a version has gone its runs still wait for it
    retention: float = 30.0 * 86_400  # runs that ended so long ago are deleted; 0: never
    retention_interval: float = 60.0  # between two looks for them
    max_recoveries: int = 10
    stop_grace: float = 10.0  # for calls in flight when the scheduler stops
    misfire_grace: float = 60.0  # a schedule's instant that is late by more counts as missed

    commands: int = 20_000  # commands that may wait; more are refused
    commit_rows: int = 2_000
    commit_bytes: int = 16 * _MIB

    @classmethod
    def from_environment(
        cls,
        *,
        database_url: str | None = None,
        listen: str | None = None,
        insecure: bool = False,
        api_key: str | None = None,
        reflection: bool = True,
        retention: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Settings:
        """Arguments, else HOLDFAST_DATABASE_URL, HOLDFAST_LISTEN, HOLDFAST_API_KEY and HOLDFAST_RETENTION, else the
        defaults.

        HOLDFAST_LEASE, HOLDFAST_RENEW_INTERVAL, HOLDFAST_RECONNECT_GRACE, HOLDFAST_HOLD, HOLDFAST_CANCEL_GRACE,
        HOLDFAST_RESUME_PATIENCE, HOLDFAST_VERSION_PATIENCE, HOLDFAST_RETENTION_INTERVAL, HOLDFAST_STOP_GRACE and
        HOLDFAST_MISFIRE_GRACE, in seconds, are for tests and unusual networks. The renewal interval follows the lease
        when only that is given. The retention is a number with s, m, h or d, or "never". Raises: SettingError when one
        is not a number above 0, or the lease would end between two renewals.
        """
        found = os.environ if environment is None else environment
        made = cls(
            database_url=database_url or found.get("HOLDFAST_DATABASE_URL") or DEFAULT_DATABASE_URL,
            listen=listen or found.get("HOLDFAST_LISTEN") or DEFAULT_LISTEN,
            insecure=insecure,
            api_key=found.get("HOLDFAST_API_KEY", "") if api_key is None else api_key,
            reflection=reflection,
            retention=_retention(retention or found.get("HOLDFAST_RETENTION") or DEFAULT_RETENTION),
            **_durations(found),
        )
        if made.renew_interval > made.lease / 2:
            raise SettingError(
                f"HOLDFAST_RENEW_INTERVAL ({made.renew_interval:g} s) must be at most half of HOLDFAST_LEASE"
                f" ({made.lease:g} s): one late renewal must not end a lease"
            )
        return made

    @property
    def look_pause(self) -> float:
        """Seconds between two looks. They are commits, too, and leases are judged only where commits leave no gap of
        half a lease: a short lease needs more looks."""
        return min(self.look_interval, _LOOKS_PER_LEASE * self.lease)

    def host_and_port(self) -> tuple[str, int]:
        """`listen`, checked and split; the host of "[::1]:4653" is "::1".

        Raises: ListenError when it is malformed, or beyond loopback with neither an API key nor `insecure`.
        """
        host, colon, port_text = self.listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not (port_text.isascii() and port_text.isdigit()) or int(port_text) > 65_535:
            raise ListenError(f"--listen {self.listen!r} is not HOST:PORT, for example {DEFAULT_LISTEN}")
        if not (self.api_key or self.insecure or _is_loopback(host)):
            raise ListenError(
                f"listening on {self.listen} lets every machine that reaches it run tasks: "
                "set HOLDFAST_API_KEY, or pass --insecure if the network is trusted"
            )
        return host, int(port_text)


def _durations(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _DURATIONS:
        variable = f"HOLDFAST_{name.upper()}"
        if text := environment.get(variable, ""):
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = 0.0
            if not 0 < found[name] <= _LONGEST_S:
                raise SettingError(f"{variable} is {text!r}; it must be a number of seconds above 0, for example 10")
    if "lease" in found:
        found.setdefault("renew_interval", found["lease"] * _RENEWALS_PER_LEASE)
    return found


def _retention(text: str) -> float:
    """Seconds; 0 for "never"."""
    if text == "never":
        return 0.0
    match = _RETENTION.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST_RETENTION_S:
        raise SettingError(
            f'the retention is {text!r}; write a number above 0 with s, m, h or d, for example "30d", or "never"'
        )
    return seconds


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
