"""Which record belongs to which durable call, and in which order records answer. Pure: no clock, no I/O, no asyncio.

Words. A *call* is one durable call of this execution; a *record* is a checkpoint that an earlier execution left. An
`Entry` is a call, a record, or (once they have found each other) both. *New ground* is a call without a record.

Identity
--------
A keyed call is (kind, key). Place, order and branch do not matter, and the same key twice in one execution is one
entry. The SDK puts the attempt's number into a key of scope "attempt".

Any other call is (branch, kind, name, occurrence), taken when the call is made. The name of a wait tells its instant to
people, and a later instant is ignored: waits count as if they had no name. Its identity as stored also carries its
*ordinal*, the number of the un-keyed call within its branch (from 0); it is not part of the match, it is evidence.

The rules
---------
1. Equal identity and equal fingerprint: the record is the call's. Another fingerprint is NonDeterminismError. Keyed
   calls and waits have no fingerprint; a wait for a token is compared by the token instead.

2. A record *of this attempt* was made by an execution that saw what this one sees: the same memory of earlier attempts,
   the same answers in the same order. A deterministic body asks for it again, at the same ordinal of the same branch.
   Hence, for un-keyed records of this attempt only:
   a. when a call comes to new ground at ordinal m of a branch, every record of that branch with an ordinal <= m must
      have been asked for, else a call was renamed, removed, inserted or moved: NonDeterminismError;
   b. a wait found at another ordinal than recorded is NonDeterminismError (nothing else tells waits apart);
   c. when a branch returns normally, every record of it, and of branches it never made, must have been asked for,
      else the body returns without what it did: NonDeterminismError. A branch that raised or was cancelled may leave
      records behind.
   Ordinals, not seqs: a step gets its seq when it ends, so a slow first step may have no record although the second
   has one. That is no alarm, because the second has the higher ordinal.

3. A record *of an earlier attempt* is a memory, no history. A new attempt may go another way (a step that failed is
   tried again and its fallback not needed, `ctx.attempt.number` is another), so a record that nobody asks for is no
   alarm. Whoever asks for it gets it by rule 1. Waits have no fingerprint, so one more condition keeps the wait of a
   failed path from answering the wait of a good one: if an earlier call is missing from the records (its seq is: it
   failed for the time being or was abandoned, so paths may have parted) and the wait was made on another source line,
   the record is passed over and the next occurrence is looked at.

4. A record is handed to one call only, so that no rule can hand it to two. Joining by key is the one exception.

The order of answers: see `AnswerOrder`.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from holdfast.errors import NonDeterminismError
from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_CANCELED
from holdfast.v1.run_pb2 import (
    CHECKPOINT_KIND_BATCH,
    CHECKPOINT_KIND_BATCH_TRIGGER,
    CHECKPOINT_KIND_CHILD,
    CHECKPOINT_KIND_STEP,
    CHECKPOINT_KIND_TOKEN,
    CHECKPOINT_KIND_TOKEN_WAIT,
    CHECKPOINT_KIND_TRIGGER,
    CHECKPOINT_KIND_WAIT,
    CHECKPOINT_STATUS_ABANDONED,
    CHECKPOINT_STATUS_FAILED,
    CHECKPOINT_STATUS_PENDING,
    Checkpoint,
)

ROOT_BRANCH: Final = "0"
"""Name of the branch in which a body begins."""

WAITPOINT_KINDS: Final = frozenset(
    {CHECKPOINT_KIND_WAIT, CHECKPOINT_KIND_CHILD, CHECKPOINT_KIND_BATCH, CHECKPOINT_KIND_TOKEN_WAIT}
)
"""Kinds that a run can be WAITING on. The others are settled by the commit of their record."""

KIND_WORDS: Final[Mapping[int, str]] = {
    CHECKPOINT_KIND_STEP: "step",
    CHECKPOINT_KIND_WAIT: "wait",
    CHECKPOINT_KIND_CHILD: "child",
    CHECKPOINT_KIND_TRIGGER: "trigger",
    CHECKPOINT_KIND_BATCH: "batch",
    CHECKPOINT_KIND_BATCH_TRIGGER: "batch-trigger",
    CHECKPOINT_KIND_TOKEN: "token",
    CHECKPOINT_KIND_TOKEN_WAIT: "token-wait",
}
"""How a kind is written in identities and messages."""

Match = tuple[str, str, str, int]
"""(branch, kind, name, occurrence), or ("", kind, digest of the key, generation) of a keyed call."""


class Branch:
    """One line of control of a body: the body itself, or a task that it made. Named by order of creation."""

    __slots__ = ("calls", "children", "is_on_new_ground", "metadata_number", "name", "occurrences", "shields")

    def __init__(self, name: str = ROOT_BRANCH) -> None:
        self.name = name
        self.calls = 0
        """Un-keyed durable calls made."""
        self.children = 0
        """Branches made."""
        self.metadata_number = 0
        """Metadata operations made."""
        self.shields = 0
        """`shielded()` blocks entered and not left."""
        self.is_on_new_ground = False
        """It made a call without a record."""
        self.occurrences: dict[tuple[str, str], int] = {}
        """Calls and named branches made, by kind and name."""

    def fork(self) -> Branch:
        """The next branch made by this one."""
        child = Branch(f"{self.name}.{self.children}")
        self.children += 1
        return self._inherit(child)

    def named(self, name: str) -> Branch:
        """A branch for a part of this one that comes and goes as a whole: a hook, a try. It moves no other branch, and
        may leave records behind that nobody asks for again."""
        name = name.replace(":", "_")
        return self._inherit(Branch(f"{self.name}/{name}#{self.occurrence('/', name)}"))

    def _inherit(self, child: Branch) -> Branch:
        child.shields = self.shields
        child.is_on_new_ground = self.is_on_new_ground
        return child

    def occurrence(self, kind: str, name: str) -> int:
        """Which call of this kind and name this is, from 0."""
        number = self.occurrences.get((kind, name), 0)
        self.occurrences[kind, name] = number + 1
        return number


class Entry:
    """A durable call, a record, or both."""

    __slots__ = (
        "attempt",
        "checkpoint",
        "fingerprint",
        "identity",
        "is_abandoned",
        "is_answered",
        "is_asked",
        "is_called",
        "is_late",
        "is_left",
        "is_made",
        "kind",
        "location",
        "name",
        "order",
        "ordinal",
        "over_at",
        "seq",
    )

    def __init__(self, identity: str, kind: int, name: str, fingerprint: bytes, location: str, ordinal: int) -> None:
        self.identity = identity
        self.kind = kind
        self.name = name
        self.fingerprint = fingerprint
        self.location = location
        self.ordinal = ordinal
        """Number of the call among the un-keyed calls of its branch; -1 for a keyed one."""
        self.attempt = 0
        """Attempt that made the record; 0 for a call of this execution."""
        self.seq = 0
        """Number of the record; 0 until there is one."""
        self.order = 0
        """Place among the settled records; 0 while it is not settled."""
        self.checkpoint: Checkpoint | None = None
        """What answers the call; None while it is not settled."""
        self.is_called = False
        """The body made the call."""
        self.is_made = False
        """There is a record, or its making is under way."""
        self.is_asked = False
        """The body awaits the answer, or did."""
        self.is_answered = False
        """The body has the answer."""
        self.is_abandoned = False
        """The body cancelled the call, in an earlier execution or this one: no answer ever comes."""
        self.is_left = False
        """The body of this execution cancelled it."""
        self.is_late = False
        """Nobody waits for this record to be asked for any more before later ones answer."""
        self.over_at = math.inf
        """When a wait that this execution asked for is over, by the loop's clock; infinite where it is not known."""

    @property
    def is_waitpoint(self) -> bool:
        """Whether a run can be WAITING on it."""
        return self.kind in WAITPOINT_KINDS

    def __str__(self) -> str:
        what = f"{KIND_WORDS.get(self.kind, self.kind)} {self.name!r}" if self.name else KIND_WORDS[self.kind]
        return f"{what} at {self.location or 'an unknown line'}"


class Replay:
    """The records of one execution and the calls that found them, or found new ground."""

    def __init__(self, checkpoints: Iterable[Checkpoint] = (), attempt: int = 1) -> None:
        self._attempt = attempt
        self._entries: dict[Match, Entry] = {}
        self.recorded: list[Entry] = []
        """Every record, in order of creation."""
        places: dict[str, list[Entry]] = {}
        self._uncalled = 0
        self._uncalled_in: dict[str, int] = {}
        """By branch, the records of this attempt that were not asked for yet; the keyed ones under ""."""
        for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.seq):
            entry, match = _load(checkpoint)
            self._entries[match] = entry
            self.recorded.append(entry)
            if entry.ordinal >= 0 and entry.attempt == attempt:
                places.setdefault(match[0], []).append(entry)
                self._uncalled += 1
            if entry.attempt == attempt:
                self._uncalled_in[match[0]] = self._uncalled_in.get(match[0], 0) + 1
        # seqs start at 1; what is missing below a record failed for the time being, or was abandoned, in an attempt
        # before this one.
        self._first_gap = 1
        for entry in self.recorded:
            if entry.seq != self._first_gap:
                break
            self._first_gap += 1
        self._places = {
            branch: deque(sorted(entries, key=lambda entry: entry.ordinal)) for branch, entries in places.items()
        }

    @property
    def has_uncalled(self) -> bool:
        """Whether rule 2 still expects calls."""
        return self._uncalled > 0

    def take(
        self,
        branch: Branch,
        kind: int,
        name: str,
        fingerprint: bytes,
        location: str,
        *,
        key: bytes | None = None,
        token_id: str = "",
    ) -> Entry:
        """The entry of a call that `branch` makes now. It has `is_made` when there is a record.

        Raises: NonDeterminismError by the rules at the top of this module.
        """
        word = KIND_WORDS[kind]
        if key is not None:
            return self._take_keyed(word, kind, name, location, key, branch)
        ordinal = branch.calls
        branch.calls += 1
        known_as = "" if kind == CHECKPOINT_KIND_WAIT else name
        while True:
            occurrence = branch.occurrence(word, known_as)
            match = (branch.name, word, known_as, occurrence)
            found = self._entries.get(match)
            if found is None:
                identity = f"{branch.name}:{word}:{occurrence}@{ordinal}:{known_as}"
                entry = Entry(identity, kind, name, fingerprint, location, ordinal)
                self._check_new_ground(branch, entry)
                entry.is_called = branch.is_on_new_ground = True
                self._entries[match] = entry
                return entry
            if not self._is_passed_over(found, location):
                break
            found.is_late = True
        self._check_found(found, kind, fingerprint, location, ordinal, token_id)
        found.is_called = True
        if found.attempt == self._attempt:
            self._uncalled -= 1
            self._uncalled_in[branch.name] -= 1
        return found

    def is_recorded(self, branch: Branch, kind: int, name: str) -> bool:
        """Whether there is a record for the next un-keyed call of `branch` with this kind and name."""
        word, known_as = KIND_WORDS[kind], "" if kind == CHECKPOINT_KIND_WAIT else name
        return (branch.name, word, known_as, branch.occurrences.get((word, known_as), 0)) in self._entries

    def repeats(self, branch: Branch) -> bool:
        """Whether what `branch` does now it did in an earlier execution of this attempt: it has not come to new ground,
        and records of it, of a branch above it, or keyed ones, which have no branch, were not asked for yet."""
        if branch.is_on_new_ground:
            return False
        name = branch.name
        while not self._uncalled_in.get(name):
            if not name:
                return False
            name = name[: max(name.rfind("."), name.rfind("/"), 0)]
        return True

    def _take_keyed(self, word: str, kind: int, name: str, location: str, key: bytes, branch: Branch) -> Entry:
        digest = hashlib.sha256(key).hexdigest()
        generation = 0
        while True:
            found = self._entries.get(("", word, digest, generation))
            if found is None:
                entry = Entry(f"key:{word}:{generation}:{digest}", kind, name, b"", location, -1)
                self._check_new_ground(branch, entry)
                entry.is_called = branch.is_on_new_ground = True
                self._entries["", word, digest, generation] = entry
                return entry
            if not found.is_left:
                if not found.is_called and found.attempt == self._attempt:
                    self._uncalled_in[""] -= 1
                found.is_called = True
                return found
            # The body cancelled the call with this key and asks again: that is another record.
            generation += 1

    def _is_passed_over(self, found: Entry, location: str) -> bool:
        return (
            found.kind == CHECKPOINT_KIND_WAIT
            and 0 < found.attempt < self._attempt
            and found.seq > self._first_gap
            and found.location != location
        )

    def _check_found(
        self, found: Entry, kind: int, fingerprint: bytes, location: str, ordinal: int, token_id: str
    ) -> None:
        asked = Entry(found.identity, kind, found.name, fingerprint, location, ordinal)
        if found.is_called:
            raise AssertionError(f"{asked} would get a record that another call has: occurrences are counted wrongly")
        if found.fingerprint != fingerprint:
            raise NonDeterminismError(
                f"The body asks for {asked} with other arguments than are recorded for {found}. A call without a key "
                "is known by its place, so its arguments must be the same at every entry: give it a key, or take "
                "what differs from a step."
            )
        if token_id and found.checkpoint is not None and found.checkpoint.subject_id not in ("", token_id):
            raise NonDeterminismError(
                f"The body asks for {asked} on token {token_id}, but {found} is recorded on token "
                f"{found.checkpoint.subject_id}. Create the token with a key."
            )
        if found.attempt == self._attempt and kind == CHECKPOINT_KIND_WAIT and found.ordinal != ordinal:
            raise NonDeterminismError(
                f"The body makes {asked} as durable call {ordinal + 1} of its branch, but {found} is recorded as call "
                f"{found.ordinal + 1}: durable calls before it were added, removed or moved since. Bring back the "
                "code that this run began with, or replay the run."
            )

    def _check_new_ground(self, branch: Branch, entry: Entry) -> None:
        places = self._places.get(branch.name)
        if not places:
            return
        while places and places[0].is_called:
            places.popleft()
        ordinal = entry.ordinal if entry.ordinal >= 0 else branch.calls - 1
        if places and places[0].ordinal <= ordinal:
            raise NonDeterminismError(
                f"The body asks for {entry}, which is not recorded, before it asked again for {places[0]}, which is: "
                "durable calls were added, removed, renamed or moved since. Bring back the code that this run began "
                "with, or replay the run."
            )

    def check_returned(self, returned: Mapping[str, bool]) -> None:
        """Rule 2c, when the body has returned. `returned` tells of each branch that was made whether it returned.

        Raises: NonDeterminismError when a record was not asked for by a branch that returned normally.
        """
        if not self._uncalled:
            return
        for branch, places in self._places.items():
            left = next((entry for entry in places if not entry.is_called), None)
            if left is None or "/" in branch:  # a named branch
                continue
            name = branch
            while name not in returned and "." in name:
                name = name.rpartition(".")[0]
            if returned.get(name, False):
                raise NonDeterminismError(
                    f"The body returned without asking again for {left}, which is recorded: durable calls were "
                    "removed since, or depend on something that changed. Bring back the code that this run began "
                    "with, or replay the run."
                )


def _load(checkpoint: Checkpoint) -> tuple[Entry, Match]:
    """The entry of a record, and what finds it."""
    place, word, rest, tail = checkpoint.identity.split(":", 3)
    if place == "key":
        ordinal = -1
        match: Match = ("", word, tail, int(rest))
    else:
        occurrence, _, number = rest.partition("@")
        ordinal = int(number)
        match = (place, word, tail, int(occurrence))
    entry = Entry(
        checkpoint.identity, checkpoint.kind, checkpoint.name, checkpoint.fingerprint, checkpoint.location, ordinal
    )
    entry.attempt = checkpoint.attempt
    entry.seq = checkpoint.seq
    entry.is_made = True
    # A step that the body cancelled while it ran is recorded as one that failed by cancellation.
    entry.is_abandoned = checkpoint.status == CHECKPOINT_STATUS_ABANDONED or (
        checkpoint.kind == CHECKPOINT_KIND_STEP
        and checkpoint.status == CHECKPOINT_STATUS_FAILED
        and checkpoint.error.kind == TASK_ERROR_KIND_CANCELED
    )
    entry.checkpoint = checkpoint
    if checkpoint.status != CHECKPOINT_STATUS_PENDING:
        entry.order = checkpoint.settled_order
    return entry, match


class AnswerOrder:
    """In which order settled records answer: one at a time, the body run to rest in between.

    Settled records answer in the order of their commits, so that a race inside the body ends as it did. `next` names
    the record that may answer now. It is the lowest one that is asked for, with one proviso: a lower one that the body
    has not asked for *yet* comes first. Can it still be asked for?

    - When every task of the body is blocked on durable calls, no: nothing moves before something answers. The lowest
      asked one answers, and the lower ones are *late*: nothing waits for them again.
    - When the body also waits for something of its own (a timer, a socket, a thread), it may be: that something may
      end and ask. So nothing answers yet. The caller bounds this by time and calls `give_up`, which makes them late.

    An abandoned call is asked for when the body cancels it again; its answer is that the cancellation goes on. What
    cancels it may be a timer, so a body that has one is not blocked as far as an abandoned call is concerned.

    A late record that is asked for after all answers at the next rest. So every asked record answers in the end: the
    order may be lost by a body that is not deterministic, an answer never is.
    """

    def __init__(self, recorded: Iterable[Entry] = ()) -> None:
        self._expected = [entry for entry in recorded if entry.order]
        self._expected.sort(key=lambda entry: entry.order)
        self._head = 0
        self._asked: list[tuple[int, int, Entry]] = []

    def settle(self, entry: Entry) -> None:
        """`entry` was settled now and has its `order`."""
        if entry.is_asked:
            heapq.heappush(self._asked, (entry.order, entry.seq, entry))
        else:
            bisect.insort(self._expected, entry, lo=self._head, key=lambda entry: entry.order)

    def ask(self, entry: Entry) -> None:
        """The body asks for `entry`, which is settled, for the first time (`is_asked` is set)."""
        heapq.heappush(self._asked, (entry.order, entry.seq, entry))

    @property
    def has_next(self) -> bool:
        """Whether something waits to answer."""
        return bool(self._asked)

    def next(self, is_blocked: Callable[[Entry], bool]) -> Entry | None:
        """The record that answers now; None when there is none, or when the body may still ask for a lower one.

        `is_blocked` says whether the body cannot ask for that lower one by itself, because every task of it is blocked
        on durable calls. It is only called when it matters.
        """
        if not self._asked:
            return None
        if self._is_lower_expected():
            if not is_blocked(self._expected[self._head]):
                return None
            self.give_up()
        return heapq.heappop(self._asked)[2]

    def give_up(self) -> None:
        """Wait no longer for the records below the lowest asked one."""
        while self._is_lower_expected():
            self._expected[self._head].is_late = True

    def _is_lower_expected(self) -> bool:
        expected = self._expected
        while self._head < len(expected) and (expected[self._head].is_asked or expected[self._head].is_late):
            self._head += 1
        return self._head < len(expected) and expected[self._head].order < self._asked[0][0]
