"""Log probabilities as numbers of JSON, which has no infinity. PURE."""

import math

LEAST = -9999.0
"""What OpenAI writes for a token that is as good as impossible."""


def finite(logprob: float) -> float:
    return max(logprob, LEAST) if not math.isnan(logprob) else LEAST
