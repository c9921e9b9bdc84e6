"""Cron: which instants an expression names in a time zone. Pure functions of their arguments.

An expression has five fields: minute, hour, day of month, month, day of week. `cronsim` reads them and walks the
calendar as Debian's cron does. Where the clocks change, these rules hold:

- An expression that fixes minute and hour (neither field begins with `*`) names one instant for each time of the
  calendar. In a fold, where a time comes twice, that is the first one. A time that a gap leaves out (02:30, when the
  clock goes from 02:00 to 03:00) is replaced by the end of the gap; several that the same gap leaves out are one.
- Any other expression names every instant at which the clock on the wall matches it: both in a fold, none in a gap. So
  an hourly one fires each hour of real time.

Instants are microseconds since the Unix epoch.
"""

from __future__ import annotations

import difflib
import zoneinfo
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIELDS: Final = "minute hour day-of-month month day-of-week"
COUNTED: Final = 1_000
"""Instants of one stretch of time that are counted one by one; of more it is only known that they are more."""
KEPT: Final = 4_096
"""Questions whose answers are remembered: many schedules share an expression."""

_ALIASES: Final = {
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
    "@MONTHLY": "0 0 1 * *",
    "@WEEKLY": "0 0 * * 0",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@HOURLY": "0 * * * *",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_FOLD: Final = timedelta(hours=4)
_FIRST_WINDOW_US: Final = 3_600_000_000
_START: Final = _EPOCH.replace(year=2024, tzinfo=None)


def checked_cron(expression: str) -> str:
    """The expression with single spaces.

    Raises: ValueError, which says what is wrong and what to write instead.
    """
    parts = expression.split()
    if len(parts) == 1 and (meant := _ALIASES.get(parts[0].upper())):
        raise ValueError(f"{expression!r} is a short form; write its five fields, {meant!r}")
    if len(parts) == 6:
        raise ValueError(
            f"{expression!r} has six fields; write five ({FIELDS}): a schedule is as fine as a minute, so leave out the"
            " seconds"
        )
    if len(parts) != 5:
        raise ValueError(
            f"{expression!r} has {len(parts)} fields; write five ({FIELDS}), for example '0 3 * * *' for three o'clock"
        )
    text = " ".join(parts)
    try:
        first = next(CronSim(text, _START), None)
    except (CronSimError, ValueError) as error:
        wrong = str(error)
        wrong = wrong[:1].lower() + wrong[1:] if isinstance(error, CronSimError) else f"not a cron expression ({wrong})"
        example = "for example '*/15 9-17 * * MON-FRI'"
        raise ValueError(f"{expression!r}: {wrong}; the fields are {FIELDS}, {example}") from None
    if first is None:
        raise ValueError(f"{expression!r} names no instant within 50 years")
    return text


def checked_zone(name: str) -> str:
    """The name of an IANA time zone; empty means "UTC".

    Raises: ValueError, which names similar ones.
    """
    if not name:
        return "UTC"
    known = _zones()
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, 3, 0.6)
    near = [zone for zone in known if zone.lower() == name.lower()] or near
    hint = f"did you mean {' or '.join(near)}?" if near else "for example Europe/Zurich or UTC"
    raise ValueError(f"{name!r} is not an IANA time zone; {hint}")


@lru_cache(1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "Factory"}  # which mean nothing elsewhere


@lru_cache(KEPT)
def following(expression: str, zone: str, after: int, count: int) -> tuple[int, ...]:
    """The first `count` instants after an instant; fewer when there are no more within 50 years.

    Raises: ValueError when this machine no longer knows the time zone.
    """
    return tuple(islice(_instants(expression, zone, after), count))


def due(expression: str, zone: str, first: int, now: int, most: int) -> tuple[list[int], int]:
    """The instants from `first`, which is one, to `now`: the latest `most` of them, oldest first, and how many were
    before those. Of those only `COUNTED` are counted.

    Raises: as `following`.
    """
    found = [first]
    for instant in _instants(expression, zone, first):
        if instant > now:
            return found[-most:], max(0, len(found) - most)
        found.append(instant)
        if len(found) > most + COUNTED:
            break
    else:
        return found[-most:], max(0, len(found) - most)
    window = _FIRST_WINDOW_US
    while True:  # back from now, so that the years before cost nothing
        latest: deque[int] = deque(maxlen=most)
        for instant in _instants(expression, zone, max(first, now - window)):
            if instant > now:
                break
            latest.append(instant)
        if len(latest) == most:
            return list(latest), COUNTED
        window *= 2


def _instants(expression: str, zone: str, after: int) -> Iterator[int]:
    """The instants after an instant, in order."""
    last = after
    for moment in _moments(expression, _zone(zone), _EPOCH + timedelta(microseconds=after)):
        instant = (moment - _EPOCH) // timedelta(microseconds=1)
        if instant > last:
            last = instant
            yield instant


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"this scheduler's machine does not know the time zone {name!r}; install tzdata") from None


def _moments(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants from some time before `after` on, in order, in UTC; some may come twice."""
    start = after.astimezone(zone).replace(tzinfo=None)
    if _offset(after - _LONGEST_FOLD, zone) != _offset(after + _LONGEST_FOLD, zone):
        start -= _LONGEST_FOLD  # what the clock shows a second time may still come
    minute, hour, *_ = expression.split()
    is_fixed = not minute.startswith("*") and not hour.startswith("*")
    second_times: deque[datetime] = deque()
    for shown in CronSim(expression, start):
        local = shown.replace(tzinfo=zone)
        before, later = local.utcoffset(), local.replace(fold=1).utcoffset()
        assert before is not None
        assert later is not None
        moment = (shown - before).replace(tzinfo=UTC)
        while second_times and second_times[0] < moment:
            yield second_times.popleft()
        if before >= later or is_fixed:
            yield moment if before >= later else _end_of_gap(moment - (later - before), moment, zone)
        if before > later and not is_fixed:
            second_times.append((shown - later).replace(tzinfo=UTC))
    yield from second_times


def _end_of_gap(before: datetime, within: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clock was put forward: after `before`, and not after `within`."""
    offset = _offset(before, zone)
    while within - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(within - before) // timedelta(seconds=2))
        if _offset(middle, zone) == offset:
            before = middle
        else:
            within = middle
    return within


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)
