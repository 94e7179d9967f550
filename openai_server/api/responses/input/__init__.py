"""Requests of `/v1/responses`: fields, items, tools, and their conversion to the messages of a turn. PURE."""
