"""Tags of the run: labels by which runs are found."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast import _scope, texts
from holdfast.errors import NotInRunError


def add(*tags: str | Sequence[str]) -> None:
    """Add tags to the current run; it can have 10 in all, of at most 128 characters each.

    Raises: NotInRunError; InvalidArgumentError when it would have more than 10, and then none of these is added.
    """
    flat = [tag for given in tags for tag in texts.check_tags(given)]
    checked = texts.check_tags(flat)
    scope = _scope.current()
    if scope is None:
        raise NotInRunError("tags.add() is only possible inside a run; outside use the option `tags` of trigger().")
    if checked:
        scope.add_tags(checked)
