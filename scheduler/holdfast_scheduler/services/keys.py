"""The run that holds the idempotency key which a filter asks for."""

from __future__ import annotations

from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart
from holdfast_scheduler import convert, reads
from holdfast_scheduler.filter import RunFilter
from holdfast_scheduler.model import SCOPE_GLOBAL, SCOPE_RUN, KeyUse
from holdfast_scheduler.services.seam import Engine
from holdfast_scheduler.unit_of_work import key_hash


async def key_holder(engine: Engine, namespace: str, wanted: RunFilter) -> bytes | None:
    """The id of the run; None when no key is asked for or nothing holds it. With a parent, the key is one of scope RUN
    that was used in it."""
    if wanted.key is None or wanted.task is None:
        return None
    key = IdempotencyKey(parts=[_part(part) for part in wanted.key])
    scope = SCOPE_GLOBAL if wanted.parent is None else SCOPE_RUN
    use = KeyUse(convert.key_parts(key, limits=engine.settings.limits, field="filter.key"), scope, 0, b"")
    digest = key_hash("run", wanted.task, use, scope, wanted.parent or b"", 0)
    return await engine.read(reads.key_holder, namespace, digest)


def _part(part: str | int | bool) -> KeyPart:
    if isinstance(part, bool):
        return KeyPart(flag=part)
    return KeyPart(number=part) if isinstance(part, int) else KeyPart(text=part)
