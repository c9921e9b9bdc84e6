"""Who waits for which run to end or to change. Used on the event loop's thread only.

The engine calls `ended` and `changed` after each commit. For a run that nobody watches this costs one look-up in a
dictionary. With several replicas an end committed elsewhere is found by `reads.ended_watched`, which the engine may run
each second over those of `watched()` that were watched a second ago, and is passed to `noticed`.

Subscribe before reading the database: then an end between the two is not lost. It may be seen twice; sinks take care.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, cast

from holdfast_scheduler.model import RunEnd


class Stoppable(Protocol):
    """Somebody who must hear of the scheduler's stop. The method must neither block nor raise."""

    def stopped(self) -> None:
        """The scheduler stops; nothing more will come."""


class Sink(Stoppable, Protocol):
    """Somebody who watches. The methods must neither block nor raise."""

    def ended(self, end: RunEnd) -> None:
        """A watched run ended; it is no longer watched by anybody."""

    def noticed(self, run_id: bytes, size: int) -> None:
        """A watched run was found to have ended; how can be read (`size` bytes). Nobody watches it any longer."""

    def changed(self, run_id: bytes) -> None:
        """The status or the metadata of a watched run changed."""


_UNKNOWN: Final = object()
RECENT_RUNS: Final = 10_000
"""Runs of which this replica remembers that it made them, and how they ended."""
RECENT_BYTES: Final = 2_048
"""A longer result is not remembered but read by those who want it, when they have room for it."""


class Watchers:
    """Sinks by run."""

    def __init__(self) -> None:
        self._sinks: dict[str, dict[bytes, list[Sink]]] = {}
        self._recent: OrderedDict[tuple[str, bytes], RunEnd | None] = OrderedDict()
        self._present: dict[int, Stoppable] = {}
        self.is_stopped = False

    def enter(self, somebody: Stoppable) -> None:
        """Have somebody told when the scheduler stops, also while they watch nothing. `leave` undoes it."""
        self._present[id(somebody)] = somebody

    def leave(self, somebody: Stoppable) -> None:
        """They need not be told any more."""
        self._present.pop(id(somebody), None)

    def add(self, namespace: str, run_id: bytes, sink: Sink) -> None:
        """Watch a run until it has ended or `discard` is called. The same sink may watch many runs."""
        self._sinks.setdefault(namespace, {}).setdefault(run_id, []).append(sink)

    def discard(self, namespace: str, run_id: bytes, sink: Sink) -> None:
        """Stop watching; without effect when the sink does not watch the run."""
        runs = self._sinks.get(namespace)
        sinks = runs.get(run_id) if runs is not None else None
        if runs is None or sinks is None:
            return
        sinks[:] = [other for other in sinks if other is not sink]
        if not sinks:
            del runs[run_id]
            if not runs:
                del self._sinks[namespace]

    def watched(self) -> dict[str, list[bytes]]:
        """The ids of the runs that are watched, by namespace."""
        return {namespace: list(runs) for namespace, runs in self._sinks.items()}

    def heard(self, namespace: str, run_ids: Sequence[bytes]) -> list[bytes]:
        """Another replica has ended these runs. Returns those that are watched: their ends are to be read. None is
        remembered as open any longer, so whoever awaits one from now on has the database looked at."""
        for run_id in run_ids:
            self._recent.pop((namespace, run_id), None)
        runs = self._sinks.get(namespace, {})
        return [run_id for run_id in run_ids if run_id in runs]

    def created(self, namespace: str, run_ids: Iterable[bytes]) -> None:
        """Runs were made, after their commit: whoever awaits one at once needs no look into the database."""
        recent = self._recent
        for run_id in run_ids:
            recent[namespace, run_id] = None
        while len(recent) > RECENT_RUNS:
            recent.popitem(last=False)

    def standing(self, namespace: str, run_id: bytes) -> tuple[bool, RunEnd | None]:
        """(whether it is remembered, how it ended or None while it is open). An open one that another replica ends is
        heard of, or noticed within two looks."""
        found = self._recent.get((namespace, run_id), _UNKNOWN)
        return (False, None) if found is _UNKNOWN else (True, cast("RunEnd | None", found))

    def ended(self, namespace: str, ends: Iterable[tuple[bytes, int, bytes | None, bytes | None]]) -> None:
        """Runs ended: (run id, final status, output, error), after their commit."""
        recent, runs = self._recent, self._sinks.get(namespace, {})
        for run_id, status, output, error in ends:
            key = (namespace, run_id)
            sinks = runs.pop(run_id, ())
            if not sinks and key not in recent:
                continue
            end = RunEnd(run_id, status, output, error)
            if key in recent:
                if len(output or b"") + len(error or b"") <= RECENT_BYTES:
                    recent[key] = end
                else:
                    del recent[key]
            for sink in sinks:
                sink.ended(end)
        self._forget_if_empty(namespace)

    def noticed(self, namespace: str, found: Iterable[tuple[bytes, int, RunEnd | None]]) -> None:
        """Runs were found to have ended, by another replica's commit for example: (run id, bytes of the result, how it
        ended or None where that is long and to be read by those who want it)."""
        runs = self._sinks.get(namespace)
        if runs is None:
            return
        for run_id, size, end in found:
            self._recent.pop((namespace, run_id), None)  # it would be remembered as open
            for sink in runs.pop(run_id, ()):
                if end is not None:
                    sink.ended(end)
                else:
                    sink.noticed(run_id, size)
        self._forget_if_empty(namespace)

    def changed(self, namespace: str, run_ids: Iterable[bytes]) -> None:
        """The status or metadata of runs changed, after the commit."""
        runs = self._sinks.get(namespace)
        if runs is None:
            return
        for run_id in run_ids:
            for sink in tuple(runs.get(run_id, ())):
                sink.changed(run_id)

    def stop(self) -> None:
        """Tell every sink, once, that nothing more will come."""
        self.is_stopped = True
        everybody = self._present | {
            id(sink): sink for runs in self._sinks.values() for sinks in runs.values() for sink in sinks
        }
        self._sinks.clear()
        self._present = {}
        for sink in everybody.values():
            sink.stopped()

    def _forget_if_empty(self, namespace: str) -> None:
        if not self._sinks.get(namespace, True):
            del self._sinks[namespace]
