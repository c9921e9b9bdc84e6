"""Tokens: handles by which an outsider completes a waitpoint. The first completion wins."""

from __future__ import annotations

import json
from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler import store
from holdfast_scheduler.model import ItemFault, KeyUse, Run
from holdfast_scheduler.unit_of_work import UnitOfWork, error_bytes, key_hash

PENDING: Final = 1
COMPLETED: Final = 2
FAILED: Final = 3
TIMED_OUT: Final = 4

_TIMED_OUT_ERROR: Final = error_bytes("TIMED_OUT", "TokenTimedOut", "nobody completed the token within its timeout")


def create(
    unit: UnitOfWork,
    token_id: bytes,
    timeout_us: int | None,
    tags: list[str],
    key: KeyUse | None,
    asker: Run | None,
) -> tuple[bytes, bool]:
    """Make a token, or find the one that its key or id names: (id, is_cached)."""
    if key is not None:
        scope = key.scope or (m.SCOPE_RUN if asker is not None else m.SCOPE_GLOBAL)
        within, attempt = (asker.id, asker.attempt) if asker is not None else (b"", 0)
        digest = key_hash("token", "", key, scope, within, attempt)
        unit.flush()
        row = store.load_keys(unit.tx, unit.namespace, "token", [digest]).get(digest)
        if row is not None and row[3] > unit.now:
            return row[2], True
        fresh = (unit.namespace, "token", "", digest, token_id, unit.now + key.ttl_us)
        (unit.key_inserts if row is None else unit.key_updates)["token", digest] = fresh
    if asker is None and token_id in store.load_tokens(unit.tx, unit.namespace, [token_id]):
        return token_id, False  # the client asks again because it does not know whether the first time arrived
    timeout_at = unit.now + timeout_us if timeout_us is not None else None
    display = key.display if key is not None else None
    row_ = (unit.namespace, token_id, PENDING, json.dumps(tags) if tags else "", unit.now, timeout_at, display)
    store.insert_tokens(unit.tx, [row_])
    if timeout_at is not None:
        unit.timed_tokens.append((timeout_at, token_id))
    return token_id, False


def load(unit: UnitOfWork, token_id: bytes) -> tuple[int, bytes | None, bytes | None] | None:
    """Lock a token and return (status, data, error). Whoever waits for a token locks it before looking at it."""
    row = store.load_tokens(unit.tx, unit.namespace, [token_id]).get(token_id)
    return None if row is None else (row[1], row[2], row[3])


def complete(unit: UnitOfWork, token_id: bytes, data: bytes, error: bytes) -> bool | ItemFault:
    """Complete a token, or fail it when `error` is given. Whether this call won."""
    row = store.load_tokens(unit.tx, unit.namespace, [token_id]).get(token_id)
    if row is None:
        return ItemFault(5, "TOKEN_NOT_FOUND", "token_id: there is no token with this id", {"field": "token_id"})
    if row[1] != PENDING:
        return False
    _settle(unit, token_id, FAILED if error else COMPLETED, None if error else data, error or None)
    return True


def time_out(unit: UnitOfWork, token_ids: list[bytes]) -> None:
    """Fail the tokens whose timeout has come."""
    for token_id, row in store.load_tokens(unit.tx, unit.namespace, token_ids).items():
        if row[1] == PENDING and row[4] is not None and row[4] <= unit.now:
            _settle(unit, token_id, TIMED_OUT, None, _TIMED_OUT_ERROR)
        elif row[1] == PENDING and row[4] is not None:
            unit.timed_tokens.append((row[4], token_id))  # its timer has rung too early


def _settle(unit: UnitOfWork, token_id: bytes, status: int, data: bytes | None, error: bytes | None) -> None:
    store.update_tokens(unit.tx, [(unit.namespace, token_id, status, unit.now, data, error)])
    unit.flush_checkpoints()
    for checkpoint in unit.load_waiters([token_id]):
        settled = m.SUCCEEDED if status == COMPLETED else m.FAILED_CHECKPOINT
        unit.settle(checkpoint, settled, value=data, error=error, permanent=status != COMPLETED)
