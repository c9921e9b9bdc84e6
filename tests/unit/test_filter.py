from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_scheduler import ids, model
from holdfast_scheduler.errors import RefusedError
from holdfast_scheduler.filter import RunFilter, TokenFilter, parse_run_filter, parse_token_filter
from holdfast_scheduler.services.paging import page_token, place_from

MOST = 4096


def parse(text: str) -> RunFilter:
    return parse_run_filter(text, MOST)


def test_nothing_means_everything() -> None:
    assert parse("") == parse("  \n") == RunFilter()


def test_every_field() -> None:
    raw = ids.new_id()
    found = parse(
        'status = "FAILED" AND task="export" AND queue = q AND tag = "a \\"b\\" \\\\ AND c" '
        f"AND batch = {ids.to_text(ids.BATCH, raw)} AND parent={ids.run_text(raw)} AND version = v1 "
        'AND created_after = 2026-01-31T12:00:00Z AND created_before = "2026-01-31T12:00:01.5+00:00"'
    )
    assert found == RunFilter(
        status=model.FAILED,
        task="export",
        queue="q",
        tag='a "b" \\ AND c',
        batch=raw,
        parent=raw,
        version="v1",
        created_after=1_769_860_800_000_000,
        created_before=1_769_860_801_500_000,
    )


def test_a_status_in_small_letters() -> None:
    assert parse("status = timed_out").status == model.TIMED_OUT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stauts = FAILED", "unknown field 'stauts' at character 1; write status"),
        ("colour = red", "unknown field 'colour'.*status or task"),
        ("status = FALIED", "'FALIED' is not a status; write FAILED"),
        ("status", "ends early"),
        ("status =", "ends early"),
        ("status != FAILED", "expected = after status at character 8, found '!='"),
        ("status = FAILED task = a", "expected AND at character 17, found 'task'"),
        ("status = FAILED AND", "ends with AND"),
        ("status = FAILED AND status = FAILED", "status is given twice"),
        ('task = "export', "is a quote missing"),
        ("task = =", "expected a value for task"),
        ("parent = run_1", "parent at character 10: 'run_1' is not an id"),
        ("created_after = yesterday", "not an instant"),
        ("created_after = 2026-01-31T12:00:00", "no time zone"),
        ("task = 'a' OR task = 'b'", "expected AND"),
        ("task = a" + "a" * MOST, "filter_length"),
        ('task = "a\0"', "U\\+0000"),
        ("(task = a)", "unknown field"),
        ("statuses = FAILED,CRASHD", "'CRASHD' is not a status; write CRASHED"),
        ("statuses = FAILED AND status = CRASHED", "status is given twice"),
        ("key = a", "key belongs to a task"),
        ("task = a AND key_parts = b", "key_parts at character 26: 'b' is not a list"),
        ('task = a AND key_parts = "[1.5]"', "is not a list of texts, integers"),
        ("metadata = 1", "unknown field 'metadata'"),
        ("metadata..a = 1", "unknown field"),
        ("metadata.a = 1 AND metadata.a = 2", "metadata.a is given twice"),
        ("created_afetr = 2026-01-31T12:00:00Z", "write created_after"),
    ],
)
def test_errors_name_the_place_and_the_way_out(text: str, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        parse(text)
    assert caught.value.fault.reason == "INVALID_FILTER"
    assert caught.value.fault.metadata == {"field": "filter"}


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except RefusedError:
        pass


@given(st.text(max_size=60).filter(lambda text: "\0" not in text))
def test_any_value_can_be_written(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'tag = "{escaped}"').tag == value


def test_tokens_have_their_own_statuses() -> None:
    assert parse_token_filter("status = PENDING AND tag = a", MOST) == TokenFilter(1, "a")
    with pytest.raises(RefusedError):
        parse_token_filter("status = EXECUTING", MOST)


def test_a_page_token_belongs_to_its_list() -> None:
    token = page_token(b"place", "runs", "default", "filter")
    assert place_from(token, "runs", "default", "filter") == b"place"
    assert place_from("", "runs") is None
    assert page_token(None, "runs") == ""
    for wrong in (token[:-2], token + "x", "?", "ä", "AAAA"):
        with pytest.raises(RefusedError, match="page_token"):
            place_from(wrong, "runs", "default", "filter")
    with pytest.raises(RefusedError, match="page_token"):
        place_from(token, "runs", "default", "another filter")
