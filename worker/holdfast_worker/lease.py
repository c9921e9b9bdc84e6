"""The worker's view of its lease: monotonic seconds as arguments, no clock of its own."""

from __future__ import annotations

import math
from collections import deque
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from holdfast.v1.worker_service_pb2 import Welcome


class Lease:
    """None yet, live, holding (it ended without contact), or over (`hold` ended too).

    It runs from the *sending* of what renewed it, so that it never ends later here than at the scheduler.
    """

    def __init__(self) -> None:
        self.until = math.inf
        """When it ends; infinity while there is none, minus infinity once it has ended."""
        self.hold_until = math.inf
        """When holding ends; infinity while it is not holding."""
        self.renew_at = math.inf
        """When the next renewal is to be sent."""
        self.hold_s = math.inf
        self._length_s = 0.0
        self._interval_s = math.inf
        self._sent: deque[tuple[int, float]] = deque()  # (nonce, sent at), oldest first
        self._nonce = 0

    @property
    def is_holding(self) -> bool:
        """Whether it ended without contact."""
        return self.until == -math.inf

    def grant(self, welcome: Welcome, hello_sent_at: float, now: float) -> None:
        """A scheduler welcomed the worker."""
        self._length_s = seconds(welcome.lease)
        self._interval_s = seconds(welcome.renew_interval)
        self.hold_s = seconds(welcome.hold)
        self.until = hello_sent_at + self._length_s
        self.hold_until = math.inf
        self.renew_at = now + self._interval_s
        self._sent.clear()

    def renewal(self, now: float) -> int:
        """The nonce of a renewal that is sent now."""
        self._nonce += 1
        self._sent.append((self._nonce, now))
        self.renew_at = now + self._interval_s
        return self._nonce

    def renewed(self, nonce: int) -> None:
        """The scheduler confirmed a renewal of this connection."""
        while self._sent and self._sent[0][0] <= nonce:
            known, sent_at = self._sent.popleft()
            if known == nonce and not self.is_holding:
                self.until = max(self.until, sent_at + self._length_s)

    def ends(self, now: float) -> bool:
        """Whether it has just ended: true once."""
        if self.is_holding or now < self.until:
            return False
        self.hold_until = self.until + self.hold_s
        self.until = -math.inf
        return True

    def hold_ends(self, now: float) -> bool:
        """Whether holding has just ended: true once."""
        if now < self.hold_until:
            return False
        self.hold_until = math.inf
        return True

    def deadline(self, is_connected: bool) -> float:
        """When something is due next; infinity for never."""
        ends = self.hold_until if self.is_holding else self.until
        return min(ends, self.renew_at) if is_connected else ends


def seconds(duration: Duration) -> float:
    """A Duration in seconds."""
    return duration.ToTimedelta() / timedelta(seconds=1)
