"""What the answers to a load amount to. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from benchmarks.orders import Answer
from benchmarks.stats import median, percentile


def tokens_of(answer: Answer) -> int:
    """As the server counted them. Without its count, for an answer that was cut, and from servers that count one choice
    of several, the chunks that had text."""
    return max(answer.tokens, len(answer.times))


def gaps(answer: Answer) -> list[tuple[float, float]]:
    """(begin, end) of each wait between two chunks of one choice, in seconds."""
    found = []
    for choice in dict.fromkeys(answer.choices):
        times = [time for time, of in zip(answer.times, answer.choices, strict=True) if of == choice]
        found += list(pairwise(times))
    return found


def serving(answers: Sequence[Answer]) -> dict[str, float]:
    """`tokens_per_s` is over the whole load, from the first request to the last answer; times are in milliseconds."""
    good = [answer for answer in answers if not answer.error]
    began, ended = min((answer.sent for answer in answers), default=0.0), max((a.ended for a in good), default=0.0)
    firsts = [answer.times[0] - answer.sent for answer in good if answer.times]
    # Who was cut before the first token waited at least so long.
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
    """What the others waited between tokens while the long prompt was read, and what itself waited; milliseconds."""
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
    # A wait that was not over when the load ended was at least as long.
    waiting = [(answer.times[-1], answer.ended)] if answer.cut and answer.times else []
    return gaps(answer) + waiting


def rates(answers: Iterable[Answer], bin_s: float, end_s: float) -> list[float]:
    """Tokens a second, bin by bin."""
    bins = [0] * int(end_s / bin_s)
    for answer in answers:
        for time in answer.times:
            place = int(time / bin_s)
            if place < len(bins):
                bins[place] += 1
    return [count / bin_s for count in bins]
