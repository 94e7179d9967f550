"""Figures of the answers to a load. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from benchmarks.orders import Answer
from benchmarks.stats import median, percentile


def tokens_of(answer: Answer) -> int:
    """Tokens of an answer: the server's count or the number of chunks with text, whichever is greater.

    There is no count for an answer that was cut, and some servers count only one of several choices.
    """
    return max(answer.tokens, len(answer.times))


def gaps(answer: Answer) -> list[tuple[float, float]]:
    """(begin, end) in seconds of each wait between two chunks of one choice."""
    found = []
    for choice in dict.fromkeys(answer.choices):
        times = [time for time, of in zip(answer.times, answer.choices, strict=True) if of == choice]
        found += list(pairwise(times))
    return found


def serving(answers: Sequence[Answer]) -> dict[str, float]:
    """Figures of a load, times in milliseconds. `tokens_per_s` covers the first request to the last answer."""
    good = [answer for answer in answers if not answer.error]
    began, ended = min((answer.sent for answer in answers), default=0.0), max((a.ended for a in good), default=0.0)
    firsts = [answer.times[0] - answer.sent for answer in good if answer.times]
    # A request that was cut before its first token counts with its wait until then.
    firsts += [answer.ended - answer.sent for answer in good if answer.cut and not answer.times]
    waits = [end - begin for answer in good for begin, end in gaps(answer)]
    tokens = sum(map(tokens_of, good))
    return {
        "tokens_per_s": tokens / (ended - began) if ended > began else 0.0,
        "ttft_p50_ms": 1e3 * percentile(firsts, 50),
        "ttft_p95_ms": 1e3 * percentile(firsts, 95),
        "gap_p50_ms": 1e3 * percentile(waits, 50),
        "gap_p99_ms": 1e3 * percentile(waits, 99),
        "tokens": tokens,
        "prompt_tokens": median(answer.prompt_tokens for answer in good if answer.prompt_tokens),
        "requests": len([answer for answer in good if not answer.cut]),
        "cut": len([answer for answer in good if answer.cut]),
        "errors": len(answers) - len(good),
    }


def long_arrival(answers: Sequence[Answer]) -> dict[str, float]:
    """Gaps between the others' tokens while the long prompt was prefilled, and its own time to first token, in ms."""
    late = next((answer for answer in answers if answer.late), None)
    if late is None:
        return {"errors": 1.0}
    begun = late.times[0] if late.times else late.ended
    waits = [
        (begin, end)
        for answer in answers
        if not answer.late
        for begin, end in _until_cut(answer)
        if end > late.sent and begin < begun
    ]
    return {
        "gap_p50_ms": 1e3 * percentile((end - begin for begin, end in waits), 50),
        "gap_p99_ms": 1e3 * percentile((end - begin for begin, end in waits), 99),
        "ttft_ms": 1e3 * (begun - late.sent),
        "running_tokens": float(sum(late.sent < time < begun for a in answers if not a.late for time in a.times)),
        "errors": float(sum(bool(answer.error) for answer in answers)),
    }


def _until_cut(answer: Answer) -> list[tuple[float, float]]:
    # A wait that the end of the load cut off counts up to there.
    waiting = [(answer.times[-1], answer.ended)] if answer.cut and answer.times else []
    return gaps(answer) + waiting


def rates(answers: Iterable[Answer], bin_s: float, end_s: float) -> list[float]:
    """Tokens per second in each bin of `bin_s` seconds."""
    bins = [0] * int(end_s / bin_s)
    for answer in answers:
        for time in answer.times:
            place = int(time / bin_s)
            if place < len(bins):
                bins[place] += 1
    return [count / bin_s for count in bins]
