"""Writes the results: results.json with every figure, README.md with tables, and the plots."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks import batch_report, plots, store_report
from benchmarks.raw import best
from benchmarks.systems import LLAMA_SERVER, OURS
from benchmarks.tables import number, percent, ratio, remarks, table

RESULTS = Path(__file__).with_name("results")
Part = dict[str, Any]


def update(folder: Path, part: str, found: Part) -> None:
    """Replaces one part and its stamp, and keeps the others."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    results: dict[str, Part] = json.loads(path.read_text()) if path.exists() else {}
    results[part] = found
    path.write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    write(folder, results)


def write(folder: Path, results: dict[str, Part]) -> None:
    (folder / "README.md").write_text(markdown(results))
    if "serving" in results:
        plots.serving(results["serving"]["figures"], folder)


def _finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON lacks, with null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(results: dict[str, Part]) -> str:
    """The whole page. PURE."""
    sections = {
        "raw": raw,
        "serving": serving,
        "translator": translator,
        "neighbour": neighbour,
        "samplers": samplers,
        "fairness": fairness,
        "background": background,
        "replicas": replicas,
        "store": store_report.section,
        "batches": batch_report.section,
        "versions": versions,
    }
    lines = [
        "# Results",
        "",
        "Written by `make bench`; [../README.md](../README.md) explains what is measured and how.",
        "",
    ]
    for name, section in sections.items():
        if name in results:
            lines += [*section(results[name]["figures"]), "", *_stamp(results[name]["stamp"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _stamp(stamp: Part) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in stamp["packages"].items())
    wake_up = stamp.get("wake_up_us", "?")  # missing in older results
    return [
        f"Measured {stamp['date']} in {stamp['seconds']} s, commit {stamp['commit']}, on {stamp['cpu']}, "
        f"{stamp['cores']} cores, {stamp['memory_gib']} GiB, {stamp['kernel']}, load before {stamp['load_before']}, "
        f"{wake_up} µs to wake another core and be woken; "
        f"Python {stamp['python']}, {packages}."
    ]


# ---- The parts


def raw(figures: Part) -> list[str]:
    lines = [
        "## Raw limit",
        "",
        f"Tokens per second of llama_decode in a bare loop, {figures['threads']} threads: with the best layout of the",
        f"KV cells, then with each. In the first table, `n at m` is {figures['steps']} steps of n sequences from a",
        "context of m tokens, which they share if it is long. In the second table, it is a chunk of n prompt tokens",
        "after m prefilled ones.",
    ]
    for title, key in (("sequences", "decode"), ("prompt tokens", "prompt")):
        layouts = list(dict.fromkeys(layout for by in figures[key].values() for layout in by))
        rows = [
            [point, number(best(by)[1]), best(by)[0], *(number(by.get(layout)) for layout in layouts)]
            for point, by in figures[key].items()
        ]
        lines += ["", *table([title, "tokens/s", "best", *layouts], rows)]
    return lines


# Column: figure.
SERVING = {
    "tokens/s": "tokens_per_s",
    "first token p50 ms": "ttft_p50_ms",
    "p95 ms": "ttft_p95_ms",
    "gap p50 ms": "gap_p50_ms",
    "p99 ms": "gap_p99_ms",
}
OTHERS = {
    "n=8": SERVING,
    "long arrival": {"gap p50 ms": "gap_p50_ms", "gap p99 ms": "gap_p99_ms", "its own first token ms": "ttft_ms"},
    "shared prefix": {
        "cold first token ms": "cold_ttft_ms",
        "warm ms": "warm_ttft_ms",
        "warm ÷ cold": "warm_of_cold",
        "8 clients tokens/s": "tokens_per_s",
    },
}


def serving(figures: Part) -> list[str]:
    setup = figures["setup"]
    rounds = f"{setup['rounds']} rounds ({setup['python_rounds']} of the Python servers)"
    lines = [
        "## Serving",
        "",
        f"{setup['model']}, {setup['threads']} threads, {setup['slots']} slots, {setup['cells']} cells, "
        f"{setup['new_tokens']} new tokens; medians of {rounds}. In parentheses the ratio to "
        f"{LLAMA_SERVER}, the median of the ratios within each round.",
        "",
        "![throughput](throughput.svg)",
        "",
        "![first token](first-token.svg)",
        "",
    ]
    for name, columns in {**{n: SERVING for n in figures["workloads"] if n.startswith("short")}, **OTHERS}.items():
        by_system = figures["workloads"].get(name)
        if by_system:
            lines += [f"### {_title(name)}", "", *_workload(by_system, columns, raw=name.startswith("short")), ""]
    lines += [f"{system} could not be measured: {why.splitlines()[0]}" for system, why in figures["problems"].items()]
    return lines[:-1] if not lines[-1] else lines


def _title(name: str) -> str:
    word, _, clients = name.partition(", ")
    return f"Short distinct prompts, {clients} client{'s' if clients != '1' else ''}" if clients else word


def _workload(by_system: Part, columns: dict[str, str], *, raw: bool) -> list[str]:
    rows = []
    for system, found in by_system.items():
        median, compared = found["median"], found["to_llama_server"]
        row = [system]
        for figure in columns.values():
            is_compared = figure in compared and system != LLAMA_SERVER
            in_parentheses = f" ({ratio(compared[figure])})" if is_compared else ""
            row.append(number(median[figure]) + in_parentheses if figure in median else "")
        if raw:
            row.append(percent(found["to_raw"].get("tokens_per_s")))
        row.append(", ".join(f"{key.removeprefix('cpu_s_')} {number(median[key])}" for key in median if "cpu_s" in key))
        row.append(remarks(median))
        rows.append(row)
    return table(["", *columns, *(["of raw"] if raw else []), "CPU s", ""], rows)


TRANSLATOR = {
    "tokens per CPU-second": "tokens_per_cpu_s",
    "tokens/s": "tokens_per_s",
    "chunks per token": "chunks_per_token",
    "CPU µs per chunk": "cpu_us_per_chunk",
}
SINGLE = {
    "start": {"first answer s": "first_answer_s"},
    "memory": {"at rest MiB": "at_rest_mib", "KiB per stream": "kib_per_stream"},
    "unary": {"requests/s": "requests_per_s", "CPU ms per request": "cpu_ms_per_request"},
    "latency": {
        "added p50 ms": "added_p50_ms",
        "added p99 ms": "added_p99_ms",
        "HTTP p50 ms": "http_p50_ms",
        "direct p50 ms": "direct_p50_ms",
    },
}


def translator(figures: Part) -> list[str]:
    points = figures["points"]
    lines = [
        "## Translator alone",
        "",
        "Tokens per CPU-second of the translating process; in parentheses the ratio to ",
    ]
    lines[-1] += "the bare uvicorn app, which only writes chunks."
    for kind in ("paced", "saturated"):
        rows = []
        for name, by_way in points.items():
            if name.startswith(kind):
                for way, found in by_way.items():
                    median, compared = found["median"], found["to_bare"].get("tokens_per_cpu_s")
                    row = [number(median[figure]) for figure in TRANSLATOR.values()]
                    row[0] += f" ({ratio(compared)})"
                    rows.append([f"{name.partition(', ')[2]}, {way}", *row, remarks(median)])
        lines += ["", f"### {kind.capitalize()}", "", *table(["streams", *TRANSLATOR, ""], rows)]
    ways = list(dict.fromkeys(way for by_way in points.values() for way in by_way))
    rows = [
        [title, *(number(points[point].get(way, {}).get("median", {}).get(figure)) for way in ways)]
        for point, columns in SINGLE.items()
        if point in points
        for title, figure in columns.items()
    ]
    lines += ["", *table(["", *ways], rows)]
    return lines + _forms(figures["forms"]) if "forms" in figures else lines  # missing in older results


FORMS = {
    "paced": ("tokens per CPU-second", "tokens_per_cpu_s"),
    "saturated": ("tokens per CPU-second", "tokens_per_cpu_s"),
    "unary": ("CPU ms per request", "cpu_ms_per_request"),
}


def _forms(figures: Part) -> list[str]:
    """The columns of the API forms."""
    forms = list(dict.fromkeys(form for by_form in figures["points"].values() for form in by_form))
    rows = []
    for name, by_form in figures["points"].items():
        kind, _, count = name.partition(", ")
        title, figure = FORMS[kind]
        cells = []
        for form in forms:
            median, compared = by_form[form]["median"], by_form[form]["to_chat"].get(figure)
            cell = f"{number(median[figure])} ({ratio(compared)})"
            cells.append(", ".join(filter(None, (cell, remarks(median)))))
        rows.append([f"{count} streams, {kind}: {title}" if count else f"whole answers: {title}", *cells])
    return [
        "",
        "### API forms",
        "",
        "The forms take turns in front of the same fake worker with step batches; in parentheses the ratio to chat,",
        "the median of the ratios within each round.",
        "",
        *table(["", *forms], rows),
    ]


def neighbour(figures: Part) -> list[str]:
    setup, points = figures["setup"], figures["points"]
    names = list(dict.fromkeys(name for point in points.values() for name in point["median"]))
    rows = []
    for point, found in points.items():
        rates = [number(found["median"].get(name, {}).get("tokens_per_s")) for name in names]
        of_best = found["auto_of_best"]
        ratios = [ratio(of_best[s]["ratio"]) if s in of_best else "–" for s in (OURS, LLAMA_SERVER)]
        rows.append([f"{point} client{'s' if not point.endswith(', 1') else ''}", *rates, *ratios])
    lines = [
        "## Neighbour",
        "",
        f"Tokens per second, by number of threads. The quota is {setup['quota']:g} processors, set by {setup['how']}; "
        "the ratios compare automatic threads with our best fixed count, and with llama-server's.",
        "",
        *table(["", *names, "auto ÷ our best", "auto ÷ llama-server's best"], rows),
        "",
        "A neighbour on one core comes and goes every few seconds. Seconds after each change until the rate of tokens",
        "was within 10 % of its later mean:",
        "",
    ]
    for clients, found in figures["reaction"].items():
        seconds = ", ".join("not" if value is None else f"{value:.2g}" for value in found["seconds"])
        lines.append(f"- {clients} client{'s' if clients != '1' else ''}: {seconds}")
    lines += [f"\n{name} could not be measured: {why.splitlines()[0]}" for name, why in figures["problems"].items()]
    return lines


def samplers(figures: Part) -> list[str]:
    """The chain's time on logits excludes its copy of the vocabulary; the model's steps include everything."""
    lines = [
        "## Samplers",
        "",
        f"{figures['model']}, {figures['threads']} threads: steps with {figures['choices']} choices of a prompt of "
        f"{figures['prompt']} tokens, in a loop without a server.",
        "In parentheses the ratio of a step's time to that with greedy sampling, measured beside it. The chain is "
        "llama.cpp's own.",
    ]
    rows = [
        [
            name,
            *(f"{number(by[kind]['tokens_per_s'])} ({ratio(by[kind]['of_greedy'])})" for kind in ("ours", "chain")),
            *(number(by[kind][key]) for key in ("sample_ms", "prepare_ms") for kind in ("ours", "chain")),
        ]
        for name, by in figures["steps_by_sampler"].items()
    ]
    header = ["", "tokens/s", "chain", "sampling ms per step", "chain", "preparing ms", "chain"]
    lines += ["", *table(header, rows)]
    lines += [
        "",
        "Processor time per token on random logits, after a prompt of this length; in parentheses the ratio to greedy.",
    ]
    header, columns = [""], []
    for n_vocab, by_sampler in figures["vocabularies"].items():
        greedy = by_sampler["greedy"]["us"]
        header += [f"{int(n_vocab):,} tokens: µs", "chain µs"]
        columns.append(
            {name: (f"{number(us['us'])} ({ratio(us['us'] / greedy)})", us) for name, us in by_sampler.items()}
        )
    names = list(next(iter(figures["vocabularies"].values())))
    rows = [[name, *(x for by in columns for x in (by[name][0], number(by[name][1]["chain_us"])))] for name in names]
    return [*lines, "", *table(header, rows)]


def fairness(figures: Part) -> list[str]:
    setup = figures["setup"]
    rows = []
    for point, by_system in figures["points"].items():
        for system, found in by_system.items():
            median, to_alone = found["median"], found["to_alone"]
            figure = [number(median.get(name)) for name in ("ttft_p50_s", "ttft_max_s", "answer_p50_s", "long_ttft_s")]
            cut = f"{number(median['cut'])} not answered" if median["cut"] else ""
            rows.append([point, system, *figure, ratio(to_alone.get("ttft_p50_s")), cut])
    lines = [
        "## Fairness",
        "",
        f"Chats of {setup['short_tokens']} tokens, one after the other, while long prompts of about "
        f"{setup['long_tokens']} tokens are prefilled: seconds to the first token and to the end of an answer. "
        f"{setup['slots']} slots and {setup['cells']} KV cells, unless the options are the defaults. "
        f"Chats without an answer after {setup['limit_s']:g} s count with that time.",
        "",
        *table(
            ["long prompts", "", "TTFT p50", "TTFT max", "answer p50", "TTFT of the long one", "TTFT p50 ÷ alone", ""],
            rows,
        ),
    ]
    lines += [f"\n{name} could not be measured: {why.splitlines()[0]}" for name, why in figures["problems"].items()]
    return lines


BACKGROUND = {
    "first token p50 ms": "ttft_p50_ms",
    "p95 ms": "ttft_p95_ms",
    "tokens/s of an answer": "answer_tokens_per_s",
    "tokens/s of all clients": "tokens_per_s",
    "tokens/s of the batch": "line_tokens_per_s",
}


def background(figures: Part) -> list[str]:
    setup, rows = figures["setup"], []
    for point, found in figures["points"].items():
        row = [point]
        for figure in BACKGROUND.values():
            value, compared = found["median"].get(figure), found["ratio"].get(figure)
            row.append(f"{number(value)} ({ratio(compared)})" if compared is not None else number(value))
        rows.append(row)
    return [
        "## Background work",
        "",
        f"{setup['clients']} clients that stream {setup['tokens']} tokens and are idle half of the time, with and "
        f"without a batch of which {setup['lines']} lines are under way, for {setup['seconds']:g} s; then the batch "
        f"alone, and ordinary requests in its place. Medians of {setup['rounds']} rounds; in parentheses the ratio to "
        "the clients without a batch, or to ordinary requests, the median of the ratios within each round.",
        "",
        *table(["", *BACKGROUND], rows),
    ]


REPLICAS = {
    "cached prompt tokens": "cached",
    "computed ones": "computed_tokens",
    "first token p50 ms": "ttft_p50_ms",
    "p95 ms": "ttft_p95_ms",
    "tokens/s": "tokens_per_s",
    "requests at the busiest worker": "busiest_share",
}


def replicas(figures: Part) -> list[str]:
    setup, rows = figures["setup"], []
    for point, by_name in figures["points"].items():
        for name, found in by_name.items():
            row = [point, name]
            for figure in REPLICAS.values():
                value, compared = found["median"].get(figure), found["to_load_alone"].get(figure)
                row.append(percent(value) if figure in PERCENT else f"{number(value)} ({ratio(compared)})")
            rows.append([*row, remarks(found["median"])])
    return [
        "## Replicas",
        "",
        f"{setup['model']} on {setup['workers']} workers with one thread each, behind a sidecar with affinity to "
        "prefixes and one that chooses by load alone, which take turns at the same workers. "
        f"{setup['users']} users with pauses of {setup['pause_s']:g} s on average: {setup['conversations']} "
        f"conversations of {setup['turns']} turns behind one system prompt of about {setup['system_tokens']} tokens, "
        f"each with a text of about {setup['document_tokens']} tokens in its first message, and single questions "
        f"behind one prompt of about {setup['hot_tokens']} tokens. Medians of {setup['rounds']} "
        "rounds; in parentheses the ratio to load alone, the median of the ratios within each round.",
        "",
        *table(["", "", *REPLICAS, ""], rows),
    ]


PERCENT = ("cached", "busiest_share")
VERSIONS = {"call p50 ms": "call_p50_ms", "CPU µs per chunk": "cpu_us_per_chunk"}


def versions(figures: Part) -> list[str]:
    rows = [
        [
            f"{way}, {version}",
            *(f"{number(found['median'][name])} ({found['to_before'][name]:.3f})" for name in VERSIONS.values()),
            remarks(found["median"]),
        ]
        for way, by_version in figures.items()
        for version, found in by_version.items()
    ]
    return [
        "## Versions",
        "",
        "The sidecar beside another checkout of it: unary responses of one token, and streams at full speed.",
        "In parentheses the ratio to the other checkout.",
        "",
        *table(["", *VERSIONS, ""], rows),
    ]
