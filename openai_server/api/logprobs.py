"""Log probabilities as JSON numbers, which can't be infinite. PURE."""

import math

MIN_LOGPROB = -9999.0
"""OpenAI's value for a token that is almost impossible."""


def finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB) if not math.isnan(logprob) else MIN_LOGPROB
