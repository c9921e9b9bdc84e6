"""The trap of the duplicated side effect: the same mailing twice, once without identity and once with it.

Both mailings lose their connection in the middle of their first attempt, and are retried.
"""

from __future__ import annotations

from pydantic import BaseModel

from examples.invoice_export.tasks import send_mail
from holdfast import Context, Retry, idempotency_keys, task

QUICK = Retry(max_attempts=3, min_timeout=0.1, max_timeout=0.2)


class Mailing(BaseModel):
    """Mail all members; fail at the member `fails_at` (from 0) of the first attempt."""

    members: list[str]
    fails_at: int


class Member(BaseModel):
    """Mail one member."""

    address: str


@task(id="mail-members-trap", retry=QUICK)
def mail_members_trap(payload: Mailing, ctx: Context) -> None:
    """The trap: sends straight from the loop. A retry begins at the first member again."""
    for position, address in enumerate(payload.members):
        _fail_once(payload, ctx, position)
        send_mail(address, "News (trap)", ctx.run.id)


@task(id="mail-members", retry=QUICK)
async def mail_members(payload: Mailing, ctx: Context) -> None:
    """The same loop, with one keyed child per member: whoever has got the mail does not get it again."""
    for position, address in enumerate(payload.members):
        _fail_once(payload, ctx, position)
        key = idempotency_keys.create(["news", address])
        sent = await mail_member.trigger_and_wait(Member(address=address), idempotency_key=key)
        sent.unwrap()


@task(id="mail-member")
def mail_member(payload: Member, ctx: Context) -> None:
    """Send one member's mail."""
    send_mail(payload.address, "News (keyed)", ctx.run.id)


def _fail_once(payload: Mailing, ctx: Context, position: int) -> None:
    if position == payload.fails_at and ctx.attempt.number == 1:
        raise ConnectionError("the connection dropped in the middle of the mailing")
