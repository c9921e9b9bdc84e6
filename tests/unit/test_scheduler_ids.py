from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_scheduler import ids


@given(st.binary(min_size=16, max_size=16))
def test_text_and_bytes_are_one_to_one(raw: bytes) -> None:
    text = ids.run_text(raw)
    assert len(text) == len("run_") + 26
    assert ids.from_text(ids.RUN, text) == raw


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_texts_sort_as_bytes_do(one: bytes, other: bytes) -> None:
    assert (one < other) == (ids.run_text(one) < ids.run_text(other))


def test_known_text() -> None:
    assert ids.to_text(ids.TOKEN, bytes(15) + b"\x21") == "token_" + "0" * 24 + "11"


def test_new_ids_are_uuid7_and_rise() -> None:
    made = [ids.new_id() for _ in range(1000)]
    assert all(raw[6] >> 4 == 7 and raw[8] >> 6 == 2 for raw in made)
    assert len(set(made)) == 1000
    assert made[0][:6] <= made[-1][:6]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run_",
        "batch_" + "0" * 26,
        "run_" + "0" * 25,
        "run_" + "0" * 27,
        "run_" + "8" + "0" * 25,  # more than 128 bits
        "run_" + "0" * 25 + "w",
        "run_" + "0" * 25 + "A",
        "run_ " + "0" * 25,
        "run_+" + "0" * 25,
        "run_0_" + "0" * 24,
        "run_" + "0" * 25 + "\n",
        "run_" + "0" * 25 + "\u0663",  # an Arabic digit, which int() would take
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an id of the form run_"):
        ids.from_text(ids.RUN, text)
