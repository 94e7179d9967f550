"""Responses of `/v1/responses`: items, the events of a stream, and summaries in place of conversations. PURE."""
