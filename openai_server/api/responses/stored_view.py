"""Stored items as clients get them. PURE."""

from collections.abc import Set

import msgspec
import orjson

from openai_server.core.sealing import Seal

ENCRYPTED = "reasoning.encrypted_content"
"""The value of `include` for sealed reasoning."""
LOGPROBS = "message.output_text.logprobs"
"""The value of `include` for log probabilities."""


def shown(body: bytes, include: Set[str], seal: Seal | None) -> msgspec.Raw:
    """The item's JSON with log probabilities and sealed reasoning only if `include` has their names.

    `seal` seals the text of reasoning that was stored without `encrypted_content`; None leaves that out.
    """
    item = orjson.loads(body)
    match item["type"]:
        case "message" if LOGPROBS not in include:
            changed = False
            for part in item["content"]:
                if part.get("logprobs"):
                    part["logprobs"], changed = [], True
        case "reasoning" if ENCRYPTED not in include:
            changed = item.pop("encrypted_content", None) is not None
        case "reasoning" if seal is not None and item.get("content") and not item.get("encrypted_content"):
            item["encrypted_content"] = seal("\n".join(part["text"] for part in item["content"]))
            changed = True
        case _:
            changed = False
    return msgspec.Raw(orjson.dumps(item) if changed else body)
