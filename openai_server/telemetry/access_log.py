"""One line for each request that is over, with numbers and ids only: no prompts, answers or keys."""

import logging

from anyserve_common.logs import say
from openai_server.telemetry.record import Record

log = logging.getLogger("openai_server.access")

MAX_CLIENT_LENGTH = 64
"""Characters of the client's address: a proxy may pass on whatever its client wrote in X-Forwarded-For."""


def write(record: Record) -> None:
    usage = record.usage
    fields = {
        "status": record.status,
        "request_id": record.id,
        "endpoint": record.endpoint,
        "model": record.model,
        "stream": record.stream or None,
        "prompt_tokens": usage and usage.prompt,
        "cached_tokens": usage and usage.cached,
        "completion_tokens": record.completion_tokens,
        "finish_reason": ",".join(dict.fromkeys(record.finish_reasons)),
        "ttft": _rounded(record.time_to_first_token),
        "duration": _rounded(record.duration),
        "client": record.client[:MAX_CLIENT_LENGTH],
    }
    say(log, logging.INFO, f"{record.method} {record.path}", fields)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
