"""The judge of the compose tests says no to what the promises exclude, and only to that."""

from __future__ import annotations

import pytest

from harness.ledger import Effect
from harness.stack import PASSED, judge

EXPECTED = {"charge", "parcel"}


def _effects(*lines: str) -> list[Effect]:
    """Each line: run, fence, identity; the root is "root"."""
    found = []
    for line in lines:
        run, fence, identity = line.split(maxsplit=2)
        found.append(Effect(run, identity, int(fence), "root"))
    return found


WHOLE = ["root 1 charge", f"root 1 {PASSED}charge", "child 1 parcel", f"root 2 {PASSED}parcel"]


def test_what_happened_once_is_right() -> None:
    judge(_effects(*WHOLE), {"root"}, EXPECTED, lost=0)


def test_what_was_not_committed_may_come_again_once_per_lost_worker() -> None:
    again = _effects("root 1 charge", *[line.replace("root 1", "root 2") for line in WHOLE])
    judge(again, {"root"}, EXPECTED, lost=1)
    with pytest.raises(AssertionError, match="charge"):
        judge(again, {"root"}, EXPECTED, lost=0)


@pytest.mark.parametrize("missing", ["root 1 charge", "child 1 parcel"])
def test_what_is_lost_is_missed(missing: str) -> None:
    with pytest.raises(AssertionError, match=missing.split()[-1]):
        judge(_effects(*(line for line in WHOLE if line != missing)), {"root"}, EXPECTED, lost=9)


def test_a_run_that_left_no_trace_is_missed() -> None:
    with pytest.raises(AssertionError, match="other"):
        judge(_effects(*WHOLE), {"root", "other"}, EXPECTED, lost=9)


def test_what_nobody_expected_is_found() -> None:
    with pytest.raises(AssertionError, match="surprise"):
        judge(_effects(*WHOLE, "root 2 surprise"), {"root"}, EXPECTED, lost=9)


def test_an_effect_whose_checkpoint_was_committed_must_not_come_again() -> None:
    with pytest.raises(AssertionError, match="was passed before"):
        judge(_effects(*WHOLE, "root 3 charge"), {"root"}, EXPECTED, lost=9)


def test_a_superseded_execution_may_end_what_it_had_begun_where_workers_were_frozen() -> None:
    frozen = _effects(*[line.replace("root 1", "root 2") for line in WHOLE], "root 1 charge")
    judge(frozen, {"root"}, EXPECTED, lost=1, zombies=True)
    with pytest.raises(AssertionError, match="was passed before"):
        judge(frozen, {"root"}, EXPECTED, lost=1)


def test_one_execution_does_nothing_twice() -> None:
    with pytest.raises(AssertionError, match="done twice"):
        judge(_effects("root 1 charge", *WHOLE), {"root"}, EXPECTED, lost=9)


def test_a_keyed_child_has_one_run() -> None:
    with pytest.raises(AssertionError, match="other"):
        judge(_effects(*WHOLE[:3], "other 1 parcel", WHOLE[3]), {"root"}, EXPECTED, lost=9)
