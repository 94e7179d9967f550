"""`python -m tests.ops.overload`: sends more requests than the pair can answer, and measures those that it accepts.

The promise: accepted requests keep their speed, others are refused at once, memory stays flat, probes are answered, and
a key with few requests is served beside one that floods. Requests are sent in an open loop, from this process, on the
same processors.
"""

import sys
from collections.abc import Iterator, Sequence

import click

from benchmarks.stats import ratio
from tests.ops.trial import Load, Trial, pair

FACTORS = (0.5, 1.0, 2.0, 5.0, 10.0)
FLOOD_RATIO = 10.0
STEADY_RATIO = 0.2
"""Rate of the key beside the flood, relative to the capacity: less than half, its fair share."""

# ---- Limits. They are generous: the clients share the processors, and ten times the load has ten times the clients.

MIN_SPEED_RATIO = 0.6
"""Minimum tokens per second in an overload, and inverse time per token, relative to those with all slots taken."""
MAX_WAIT_RATIO = 1.5
"""Maximum time to first token (p95), relative to the time in which all running and queued requests finish."""
REFUSAL_SECONDS = 0.25
"""Maximum seconds of a refusal."""
SLOW_REFUSAL_SHARE = 0.01
"""Maximum share of refusals that take longer."""
PROBE_SECONDS = 1.0
"""Maximum seconds of a probe: Kubernetes' default timeout."""
GROWTH_MIB = 24
"""MiB by which a process may grow."""

HEAD = """\
                   requests                    tokens   ms a token     first token ms    refusal ms    probe       MiB
                       /s  accepted   refused      /s    p50   p95      p50      p95     p50     p99     max  worker sidecar
"""  # noqa: E501 - a table


def row(load: Load) -> str:
    refusal = [f"{load.refusal(percent) * 1000:.1f}" if load.refused else "–" for percent in (50, 99)]
    return "".join(
        (
            f"{load.name:17}",
            f"{len(load.outcomes) / load.seconds:8.1f}{len(load.accepted):10d}{len(load.refused):10d}",
            f"{load.tokens_per_s:8.0f}",
            f"{load.per_token(50) * 1000:7.1f}{load.per_token(95) * 1000:6.1f}",
            f"{load.wait(50) * 1000:9.0f}{load.wait(95) * 1000:9.0f}",
            f"{refusal[0]:>8}{refusal[1]:>8}",
            f"{load.watch.slowest_probe * 1000:8.0f}",
            f"{load.watch.peak['worker']:8d}{load.watch.peak['sidecar']:8d}",
        )
    )


def comparison(load: Load, once: Load) -> str:
    return (
        f"{load.name} beside {once.name}: tokens/s {ratio(load.tokens_per_s, once.tokens_per_s):.2f},"
        f" time per token {ratio(load.per_token(50), once.per_token(50)):.2f}"
        f" (p95 {ratio(load.per_token(95), once.per_token(95)):.2f}),"
        f" first token {ratio(load.wait(50), once.wait(50)):.2f} (p95 {ratio(load.wait(95), once.wait(95)):.2f})"
    )


def broken_promises(load: Load, full: Load, full_house: float, n_displaced: int = 0) -> Iterator[str]:
    """Yields the broken promises of a load, compared with `full`, which takes all slots and no more.

    `full_house` is the time in seconds in which all running and queued requests finish; `n_displaced` is the number of
    requests that lost their place in the queue.
    """
    for outcome in load.outcomes:
        if not (outcome.accepted or outcome.refused):
            yield f"{load.name}: not answered as promised: {outcome}"
    if not load.accepted:
        yield f"{load.name}: nothing was accepted"
    if load.per_token(50) > full.per_token(50) / MIN_SPEED_RATIO:
        yield f"{load.name}: a token takes {load.per_token(50):.4f} s, {full.per_token(50):.4f} with all slots taken"
    if load.wait(95) > MAX_WAIT_RATIO * full_house:
        yield f"{load.name}: first tokens take {load.wait(95):.2f} s, where a full queue takes {full_house:.2f}"
    slow_refusals = [outcome for outcome in load.refused if outcome.seconds > REFUSAL_SECONDS]
    if len(slow_refusals) > SLOW_REFUSAL_SHARE * len(load.refused) + n_displaced:
        yield f"{load.name}: {len(slow_refusals)} of {len(load.refused)} refusals took more than {REFUSAL_SECONDS} s"
    if load.watch.lost_probes or load.watch.slowest_probe > PROBE_SECONDS:
        yield f"{load.name}: {load.watch.lost_probes} probes lost, the slowest took {load.watch.slowest_probe:.2f} s"


def slowdown(load: Load, full: Load) -> Iterator[str]:
    if load.tokens_per_s < MIN_SPEED_RATIO * full.tokens_per_s:
        yield f"{load.name}: {load.tokens_per_s:.0f} tokens/s, of {full.tokens_per_s:.0f} with all slots taken"


def unfair(flooding: Load, steady: Load) -> Iterator[str]:
    if steady.refused:
        yield f"{steady.name}: {len(steady.refused)} of {len(steady.outcomes)} refused"
    if steady.wait(50) > flooding.wait(50):
        yield f"{steady.name}: waits {steady.wait(50):.2f} s, the flood {flooding.wait(50):.2f}"


def memory_growth(before: dict[str, int], loads: Sequence[Load]) -> Iterator[str]:
    for name, resident in before.items():
        peak = max(load.watch.peak[name] for load in loads)
        if peak > resident + GROWTH_MIB:
            yield f"the {name} grew from {resident} to {peak} MiB"


@click.command()
@click.option("--places", default=8, show_default=True, help="--max-concurrency of the sidecar.")
@click.option("--queue", default=8, show_default=True, help="Its --max-queue.")
@click.option("--tokens", default=64, show_default=True, help="Mean length of responses, in tokens.")
@click.option("--seconds", default=20.0, show_default=True, help="Seconds of each load.")
def main(places: int, queue: int, tokens: int, seconds: float) -> None:
    """Loads a pair with up to ten times its capacity. Exit status 1 if it doesn't hold its promises."""
    with pair(places, queue) as served:
        trial = Trial(served, tokens, seconds)
        trial.all_slots()  # the first requests' memory is not growth
        before = served.resident()
        full = trial.all_slots()
        rate = full.tokens_per_s / tokens
        click.echo(f"{HEAD}{row(full)}")
        loads = {}
        for factor in FACTORS:
            loads[factor] = trial.times(factor, rate)
            click.echo(row(loads[factor]))
        flooding, steady = trial.two_keys((FLOOD_RATIO * rate, STEADY_RATIO * rate))
        click.echo(f"{row(flooding)}\n{row(steady)}")
        after = served.resident()
    for factor, load in loads.items():
        if factor > 1:
            click.echo(comparison(load, loads[1.0]))
    click.echo(
        f"key B: {len(steady.accepted)} of {len(steady.outcomes)} accepted, first token {comparison(steady, flooding)}"
    )
    click.echo(f"MiB before {before}, afterwards {after}")

    full_house = (places + queue) * tokens / full.tokens_per_s
    problems = [problem for load in loads.values() for problem in broken_promises(load, full, full_house)]
    problems += [problem for factor, load in loads.items() if factor > 1 for problem in slowdown(load, full)]
    problems += [
        *broken_promises(flooding, full, full_house, len(steady.outcomes)),
        *broken_promises(steady, full, full_house),
    ]
    problems += [*unfair(flooding, steady), *memory_growth(before, [full, *loads.values(), flooding, steady])]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
