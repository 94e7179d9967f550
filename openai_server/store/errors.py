"""Errors within the store. Those of requests are in core/store_errors.py. PURE."""


class BadStore(Exception):
    """The store can't be used as it is configured. The message contains no password, and has no full stop."""


class Lost(Exception):
    """The database doesn't answer. The message is the reason, for the log."""


class NotConnected(Lost):
    """The database was lost before, or is closed."""


class Overloaded(Exception):
    """A transaction waited for too long and was rolled back; others may still be answered. The message is the reason,
    for the log."""


class MissingBlob(Exception):
    """The database refers to a blob that doesn't exist. The message is its key."""


class BlobsAway(Exception):
    """The place of the blobs doesn't answer. The message is the reason, for the log."""


class BlobsFull(BlobsAway):
    """There is no room for another blob: the disk, or this account's quota on it, is full."""
