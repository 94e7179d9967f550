"""The access log: one line for each request that has ended, with numbers and ids only: no prompts, answers or keys."""

import logging

from anyserve_common.logs import log_fields
from openai_server.core.request_context import RequestContext

log = logging.getLogger("openai_server.access")

MAX_CLIENT_LENGTH = 64
"""Maximum characters of the client's address: a proxy may pass on any text that its client sent in X-Forwarded-For."""


def write(context: RequestContext) -> None:
    usage = context.usage
    fields = {
        "status": context.status,
        "request_id": context.id,
        "endpoint": context.endpoint,
        "model": context.model,
        "stream": context.stream or None,
        "prompt_tokens": usage and usage.prompt,
        "cached_tokens": usage and usage.cached,
        "completion_tokens": context.completion_tokens,
        "finish_reason": ",".join(dict.fromkeys(context.finish_reasons)),
        "ttft": _rounded(context.time_to_first_token),
        "duration": _rounded(context.duration),
        "client": context.client[:MAX_CLIENT_LENGTH],
    }
    log_fields(log, logging.INFO, f"{context.method} {context.path}", fields)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
