"""Background responses: queued in the store, run by any replica, and followed from the log of their events."""
