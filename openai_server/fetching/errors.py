"""Why a URL wasn't fetched. PURE."""


class NotFetched(Exception):
    """`reason` is a sentence without its end. It never contains an address, or anything that was received."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
