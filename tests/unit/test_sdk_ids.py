from __future__ import annotations

import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import ids
from holdfast.errors import InvalidArgumentError


def test_new_ids_are_uuid7_and_rise():
    made = [ids.new_run_id() for _ in range(5000)]
    assert made == sorted(set(made))
    parsed = uuid.UUID(bytes=ids.to_bytes(ids.RUN, made[-1]))
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_ids_of_several_threads_differ():
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([ids.new_run_id() for _ in range(2000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_the_text_form_sorts_like_the_bytes_and_comes_back(one, other):
    first, second = ids.to_text(ids.RUN, one), ids.to_text(ids.RUN, other)
    assert (first < second) == (one < other)
    assert ids.to_bytes(ids.RUN, first) == one
    assert len(first) == 30


@pytest.mark.parametrize(
    "bad", ["", "run_", "batch_" + "0" * 26, "run_" + "0" * 25, "run_" + "8" + "0" * 25, "run_" + "w" * 26,
            "run_" + "_" * 26, "run_" + "A" * 26]
)  # fmt: skip
def test_what_is_no_id_is_refused(bad):
    with pytest.raises(InvalidArgumentError, match="run_"):
        ids.to_bytes(ids.RUN, bad)
