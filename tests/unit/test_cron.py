"""Cron arithmetic: which instants an expression names, above all where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_scheduler import cron

ZURICH = "Europe/Zurich"
MINUTE = 60_000_000


def micros(text: str) -> int:
    """An instant that is written with its offset, or in UTC."""
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)


def shown(instant: int, zone: str) -> str:
    moment = datetime.fromtimestamp(instant / 1e6, ZoneInfo(zone))
    return f"{moment:%d %H:%M%z}"


def after(expression: str, zone: str, start: str, count: int) -> list[str]:
    return [shown(one, zone) for one in cron.following(cron.checked_cron(expression), zone, micros(start), count)]


def test_plain_expressions() -> None:
    assert after("0 3 * * *", "UTC", "2026-11-22T03:00:00", 2) == ["23 03:00+0000", "24 03:00+0000"]
    assert after("*/20 9 * * MON-FRI", ZURICH, "2026-11-20T09:30:00+01:00", 3) == [
        "20 09:40+0100", "23 09:00+0100", "23 09:20+0100",
    ]  # fmt: skip
    assert after("0 0 29 2 *", "UTC", "2026-01-01T00:00:00", 1) == ["29 00:00+0000"]
    assert cron.following("0 0 29 2 *", "UTC", micros("2026-01-01T00:00:00"), 1) == (micros("2028-02-29T00:00:00"),)
    assert after("0 12 L * *", "UTC", "2026-02-01T00:00:00", 1) == ["28 12:00+0000"]
    assert after("0 12 * * 5#1", "UTC", "2026-11-07T00:00:00", 1) == ["04 12:00+0000"]


def test_the_instant_asked_about_is_not_among_those_after_it() -> None:
    at = micros("2026-11-22T03:00:00")
    assert cron.following("0 3 * * *", "UTC", at - 1, 1) == (at,)
    assert cron.following("0 3 * * *", "UTC", at, 1) > (at,)


# In Zurich the clock goes from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October 2026.
BEFORE_GAP, BEFORE_FOLD = "2026-03-28T12:00:00+01:00", "2026-10-24T12:00:00+02:00"


def test_a_fixed_time_in_a_gap_fires_at_the_end_of_the_gap() -> None:
    assert after("30 2 * * *", ZURICH, BEFORE_GAP, 2) == ["29 03:00+0200", "30 02:30+0200"]


def test_fixed_times_in_one_gap_fire_once() -> None:
    assert after("15,45 2 * * *", ZURICH, BEFORE_GAP, 2) == ["29 03:00+0200", "30 02:15+0200"]
    assert after("0 2,3 * * *", ZURICH, BEFORE_GAP, 2) == ["29 03:00+0200", "30 02:00+0200"]


def test_a_fixed_time_in_a_fold_fires_the_first_time_only() -> None:
    assert after("30 2 * * *", ZURICH, BEFORE_FOLD, 2) == ["25 02:30+0200", "26 02:30+0100"]
    # In the second pass of the hour, the first 02:30 is over.
    assert after("30 2 * * *", ZURICH, "2026-10-25T02:10:00+01:00", 1) == ["26 02:30+0100"]


def test_an_interval_knows_no_gap() -> None:
    start = "2026-03-29T01:15:00+01:00"
    assert after("*/30 * * * *", ZURICH, start, 3) == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]
    assert after("30 * * * *", ZURICH, start, 2) == ["29 01:30+0100", "29 03:30+0200"]
    assert after("*/30 2 * * *", ZURICH, start, 1) == ["30 02:00+0200"]


def test_an_interval_fires_in_both_passes_of_a_fold() -> None:
    assert after("*/30 * * * *", ZURICH, "2026-10-25T01:45:00+02:00", 5) == [
        "25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100",
    ]  # fmt: skip
    assert after("*/30 2 * * *", ZURICH, "2026-10-25T02:40:00+02:00", 3) == [
        "25 02:00+0100", "25 02:30+0100", "26 02:00+0100",
    ]  # fmt: skip


def test_a_gap_and_a_fold_of_half_an_hour() -> None:
    # Lord Howe: from 02:00 to 02:30 on 4 October 2026, from 02:00 back to 01:30 on 5 April 2026.
    zone = "Australia/Lord_Howe"
    assert after("15 2 * * *", zone, "2026-10-03T12:00:00+10:30", 2) == ["04 02:30+1100", "05 02:15+1100"]
    assert after("*/15 * * * *", zone, "2026-04-05T01:40:00+11:00", 4) == [
        "05 01:45+1100", "05 01:30+1030", "05 01:45+1030", "05 02:00+1030",
    ]  # fmt: skip


def test_a_whole_day_that_was_left_out() -> None:
    # Samoa went from 29 to 31 December 2011.
    zone = "Pacific/Apia"
    assert after("0 9 * * *", zone, "2011-12-29T08:00:00-10:00", 3) == [
        "29 09:00-1000", "31 00:00+1400", "31 09:00+1400",
    ]  # fmt: skip
    assert after("0 */12 * * *", zone, "2011-12-29T08:00:00-10:00", 2) == ["29 12:00-1000", "31 00:00+1400"]


ZONES = ["UTC", ZURICH, "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca"]
EXPRESSIONS = [
    "30 2 * * *", "0 2,3 * * *", "15,45 0-3 * * *", "*/20 * * * *", "*/20 1-3 * * *", "0 * * * *", "30 */2 * * *",
    "*/7 2 1-28 * *", "59 23 * * *", "0 0 * * *",
]  # fmt: skip
CHANGES = [
    micros(text)
    for text in (
        "2026-03-29T01:00:00", "2026-10-25T01:00:00", "2026-03-08T07:00:00", "2026-11-01T06:00:00",
        "2026-04-04T15:00:00", "2026-10-03T15:30:00", "2026-02-15T02:00:00", "2026-03-22T02:00:00",
        "2026-03-08T05:30:00", "2026-11-01T04:30:00",
    )
]  # fmt: skip
around_changes = st.builds(
    lambda change, offset: change + offset,
    st.sampled_from(CHANGES),
    st.integers(-6 * 60 * MINUTE, 6 * 60 * MINUTE),
)


def by_the_clock_on_the_wall(expression: str, zone: str, start: int, count: int) -> list[int]:
    """The same by looking at each minute: which times it shows, and which times of the calendar it passes."""
    minute, hour, *_ = expression.split()
    is_fixed = not minute.startswith("*") and not hour.startswith("*")
    where = ZoneInfo(zone)
    found: list[int] = []
    instant = start // MINUTE * MINUTE - 6 * 60 * MINUTE

    def face(at: int) -> datetime:
        return datetime.fromtimestamp(at / 1e6, where).replace(tzinfo=None)

    def matches(time: datetime) -> bool:
        before = round((time.replace(tzinfo=UTC) - timedelta(minutes=1)).timestamp() * 1e6)
        return cron.following(expression, "UTC", before, 1) == (before + MINUTE,)

    furthest = face(instant)
    while len(found) < count:
        instant += MINUTE
        shows = face(instant)
        if not is_fixed:
            fires = matches(shows)
        else:
            passed = []
            while furthest < shows:
                furthest += timedelta(minutes=1)
                passed.append(furthest)
            fires = any(matches(time) for time in passed)
        if fires and instant > start:
            found.append(instant)
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), around_changes)
def test_the_rules_hold_wherever_clocks_change(expression: str, zone: str, start: int) -> None:
    found = cron.following(expression, zone, start, 2)
    assert list(found) == by_the_clock_on_the_wall(expression, zone, start, 2)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*EXPRESSIONS, "5 0 * * SUN"]), st.sampled_from(ZONES), around_changes, st.floats(0, 1))
def test_whoever_asks_in_between_gets_the_same_instants(expression: str, zone: str, start: int, part: float) -> None:
    found = cron.following(expression, zone, start, 12)
    assert all(one < other for one, other in pairwise((start, *found)))
    asked = start + round((found[0] - 1 - start) * part)
    assert cron.following(expression, zone, asked, 12) == found
    assert cron.following(expression, zone, found[0], 11) == found[1:]


# --- what is due ------------------------------------------------------------------------------------------------------
def test_due_instants_are_the_latest_ones() -> None:
    first = micros("2026-11-22T03:00:00")
    assert cron.due("* * * * *", "UTC", first, first + 1, 10) == ([first], 0)
    assert cron.due("* * * * *", "UTC", first, first + 3 * MINUTE, 10) == ([first + n * MINUTE for n in range(4)], 0)
    assert cron.due("* * * * *", "UTC", first, first + 3 * MINUTE, 2) == ([first + 2 * MINUTE, first + 3 * MINUTE], 2)


def test_years_of_due_instants_are_not_counted_one_by_one() -> None:
    first = micros("1996-11-22T03:00:00")
    now = micros("2026-11-22T03:00:30")
    latest = [now - 30_000_000 - n * MINUTE for n in reversed(range(100))]
    assert cron.due("* * * * *", "UTC", first, now, 100) == (latest, cron.COUNTED)
    instants, older = cron.due("*/2 * 1 1 *", "UTC", first, now, 800)
    assert (len(instants), older) == (800, cron.COUNTED)
    assert instants[-1] == micros("2026-01-01T23:58:00")
    assert instants[0] == micros("2025-01-01T21:20:00")


def test_the_first_due_instant_need_not_match() -> None:
    """The expression may have been written when the zone had other rules."""
    first = micros("2026-11-22T03:00:17")
    assert cron.due("0 3 * * *", "UTC", first, first, 10) == ([first], 0)


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 0 3 * * *", "six fields.*seconds"),
        ("", "has 0 fields; write five"),
        ("* * * *", "has 4 fields; write five"),
        ("0 0 0 0 0 0 0", "has 7 fields"),
        ("@daily", "write its five fields, '0 0 \\* \\* \\*'"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("* * * * MONDAY", "bad day-of-week"),
        ("5-1 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("٣ * * * *", "bad minute"),
    ],
)
def test_what_is_no_cron_expression(expression: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cron.checked_cron(expression)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text("0123456789*/-,#L?W MON@\0é", max_size=8), min_size=4, max_size=6))
def test_whatever_is_given_is_taken_or_refused(parts: list[str]) -> None:
    try:
        text = cron.checked_cron(" ".join(parts))
    except ValueError:
        return
    assert cron.following(text, ZURICH, micros("2026-01-01T00:00:00"), 1)


def test_spaces_do_not_matter() -> None:
    assert cron.checked_cron("  0  3 *\t* * ") == "0 3 * * *"


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("Europe/Zürich", "did you mean Europe/Zurich"),
        ("europe/zurich", "did you mean Europe/Zurich"),
        ("CETT", "did you mean CET"),
        ("Europe", "is not an IANA time zone"),
        ("../etc/passwd", "is not an IANA time zone"),
        ("/usr/share/zoneinfo/UTC", "is not an IANA time zone"),
        ("localtime", "is not an IANA time zone"),
        ("+02:00", "is not an IANA time zone"),
        ("\0", "is not an IANA time zone"),
    ],
)
def test_what_is_no_time_zone(zone: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cron.checked_zone(zone)


def test_no_time_zone_is_utc() -> None:
    assert cron.checked_zone("") == "UTC"
    assert cron.checked_zone(ZURICH) == ZURICH


def test_a_zone_that_has_gone_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="install tzdata"):
        cron.following("0 3 * * *", "Nowhere/Gone", 0, 1)
