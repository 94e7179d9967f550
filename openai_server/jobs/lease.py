"""How long other processes treat this one as alive, by its own clock. PURE."""


class Lease:
    """Lasts `seconds` from the beginning of each heartbeat that the store has confirmed. Times are in seconds from any
    start."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._until = now + seconds

    def renew(self, sent_at: float) -> None:
        """`sent_at`: time at which the confirmed heartbeat was sent."""
        self._until = max(self._until, sent_at + self._seconds)

    def left(self, now: float) -> float:
        """Seconds; 0 or less if it may have expired."""
        return self._until - now
