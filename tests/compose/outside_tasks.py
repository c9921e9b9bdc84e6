"""What the workers of the compose tests execute: tasks whose effects go to an outside ledger.

An identity is noted when its effect happens, and once more with "passed " in front when the body has gone past the
durable call: then its checkpoint is committed, and the effect must not happen again.
"""

from __future__ import annotations

from examples.invoice_export import destination, tasks

from harness.ledger import Ledger
from holdfast import Retry, _scope, step, task, wait

ONCE = Retry(max_attempts=1)
"""A run that used a second attempt would fail: the tests see it."""
PLACES = 3
"""Durable steps, waits and children of an errand, each."""


def note(identity: str) -> None:
    """Write down what happens in the outside world, in which execution, and for which root run."""
    scope = _scope.current()
    assert scope is not None
    run = scope.ctx.run
    Ledger().append(run.id, identity, scope.fence, run.root_id)  # type: ignore[attr-defined]


def charge(place: int) -> int:
    """A step's effect."""
    note(f"charge {place}")
    return place


@task(id="errand", retry=ONCE)
async def errand(number: int) -> int:
    """Steps, waits and keyed children."""
    for place in range(PLACES):
        await step("charge", charge, place)
        note(f"passed charge {place}")
        await wait.for_(seconds=0.4)
        (await parcel.trigger_and_wait(place, idempotency_key=f"parcel {place}")).unwrap()
        note(f"passed parcel {place}")
    return number


@task(id="parcel", retry=ONCE)
async def parcel(place: int) -> None:
    """A keyed child."""
    note(f"parcel {place}")


# The invoice export as it is shipped, with a witness.
_begin_page = destination.Destination.begin_page
_send_mail = tasks.send_mail


def _witnessed_begin_page(self: destination.Destination, organization: str, page: int, run: str, worker: str) -> int:
    note(f"page {page}")
    return _begin_page(self, organization, page, run, worker)


def _witnessed_send_mail(to: str, subject: str, reference: str) -> None:
    note("e-mail")
    _send_mail(to, subject, reference)


destination.Destination.begin_page = _witnessed_begin_page  # type: ignore[method-assign]
tasks.send_mail = _witnessed_send_mail
