"""`python -m tests.ops.fuzz_parsers`: atheris searches for bytes that break a parser, guided by code coverage.

Needs the extra `fuzz`. Each target runs in a separate process, since libFuzzer ends its process. Inputs that reach new
code are kept in `--corpus`, where the next run continues; inputs that break a parser are written beside them. The
parsers are imported late: atheris instruments only what it imports itself.
"""

import subprocess
import sys
from pathlib import Path

import click

WATCHED = ["openai_server", "anyserve_worker", "protos"]
MAX_MEGABYTES = 2048
"""Maximum memory of the process for one input."""


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seconds", default=60, show_default=True, help="Seconds of each target.")
@click.option("--corpus", type=click.Path(path_type=Path, file_okay=False), default=Path(".fuzz"), show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--input", "only", type=click.Path(path_type=Path, exists=True), help="Run only this input.")
def main(names: tuple[str, ...], seconds: int, corpus: Path, seed: int, only: Path | None) -> None:
    """Fuzzes the named parsers, or all. Exit status 1 if one breaks."""
    from tests.ops.parsers import MAX_SECONDS, TARGETS

    if unknown := set(names) - TARGETS.keys():
        raise click.UsageError(f"There is no target {min(unknown)}. Targets: {', '.join(TARGETS)}.")
    broken = []
    for name in names or TARGETS:
        target = TARGETS[name]
        if only is not None:
            target.run(only.read_bytes())
            continue
        inputs = corpus / name
        inputs.mkdir(parents=True, exist_ok=True)
        for i, content in enumerate(target.seeds()):
            (inputs / f"seed-{i}").write_bytes(content)
        dictionary = corpus / f"{name}.dict"
        dictionary.write_text("".join(f"{_quoted(word)}\n" for word in sorted(set(target.words()))))
        options = {
            "dict": dictionary,
            "max_total_time": seconds,
            "max_len": target.longest,
            "timeout": int(MAX_SECONDS),
            "rss_limit_mb": MAX_MEGABYTES,
            "seed": seed,
            "artifact_prefix": f"{corpus / name}-",
            "print_final_stats": 1,
        }
        click.echo(f"---- {name}")
        arguments = [f"-{option}={value}" for option, value in options.items()]
        if subprocess.run(
            [sys.executable, "-m", "tests.ops.fuzz_parsers", "--fuzz", name, *arguments, inputs]
        ).returncode:
            broken.append(name)
    if broken:
        click.echo(f"broken: {', '.join(broken)}")
        sys.exit(1)


def _quoted(word: str) -> str:
    """Quotes a word for libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


def fuzz(name: str, arguments: list[str]) -> None:
    """Runs the fuzzer; does not return."""
    import atheris

    with atheris.instrument_imports(include=WATCHED):
        from tests.ops.parsers import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fuzz"]:
        fuzz(sys.argv[2], sys.argv[3:])
    main()
