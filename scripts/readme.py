"""The tables of README.md, printed from the code. `--check` fails where the README says something else.

Each stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from anyserve_worker.__main__ import main as worker
from openai_server import schemas, schemas_tasks
from openai_server.__main__ import main as sidecar
from openai_server.encode import SAMPLING
from openai_server.encode_tasks import EMBEDDING
from openai_server.errors import GRPC_TO_HTTP

README = Path(__file__).parents[1] / "README.md"


def _table(header: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def options(command: click.Command) -> str:
    context = click.Context(command, auto_envvar_prefix=command.context_settings.get("auto_envvar_prefix"))
    rows = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.name == "version":
            continue
        info = option.get_help_extra(context)
        name = " / ".join([option.opts[-1], *option.secondary_opts])
        value = f" {option.make_metavar(context)}" if not option.is_flag else ""
        variable = f"`{info['envvars'][0]}`" if info.get("envvars") else ""
        default = f"`{info['default']}`" if info.get("default") else ""
        rows.append((f"`{name}{value}`", default, variable, (option.help or "").replace("\n", " ")))
    return _table("option | default | environment | meaning", rows)


def fields() -> str:
    """Request field → tensor, and who has it."""
    rows = [
        ("`model`", "both", "`model_name`; absent: the first served model"),
        ("`prompt`", "completions", "`prompt`, or `prompt_token_ids` for token ids; one request a prompt"),
        ("`messages`", "chat", "`prompt`, rendered with the model's chat template"),
    ]
    for name, sampling in SAMPLING.items():
        names = "`max_tokens`, `max_completion_tokens` (chat)" if name == "max_tokens" else f"`{name}`"
        rows.append((names, "both", f"`{sampling.tensor.name}` {sampling.tensor.datatype}"))
    rows.append(("`stream`, `stream_options.include_usage`", "both", "`ModelStreamInfer` instead of `ModelInfer`"))
    rows += [(f"`{name}`", "both", "none: it has no effect on the output") for name in sorted(schemas.NO_EFFECT)]
    return _table("field | endpoint | becomes", rows)


def refused() -> str:
    def names(table: schemas.Fields) -> str:
        return ", ".join(f"`{name}`" for name in sorted(table.neutral))

    return f"- completions: {names(schemas.COMPLETION_FIELDS)}\n- chat: {names(schemas.CHAT_FIELDS)}"


def task_fields() -> str:
    """The same for the endpoints that generate nothing."""
    rows = [
        ("`model`", "all", "`model_name`; absent: the first served model"),
        ("`input`", "embeddings", "`prompt`, or `prompt_token_ids` for token ids; one request an input"),
        ("`encoding_format`", "embeddings", "the answer's form: `float` or `base64`"),
        *((f"`{name}`", "embeddings", f"`{spec.name}` {spec.datatype}") for name, spec in EMBEDDING.items()),
        ("`query`, `documents`", "rerank", "`prompt` and `document`; one request a document"),
        ("`top_n`, `return_documents`", "rerank", "the answer: how many of the best, and whether with their text"),
        ("`content`, `prompt`, `messages`", "tokenize", "`prompt`; `messages` rendered with the model's chat template"),
        ("`add_special`, `add_special_tokens`", "tokenize", "`add_special` BOOL"),
        ("`parse_special`", "tokenize", "`parse_special` BOOL"),
        ("`with_pieces`, `return_token_strs`", "tokenize", "the answer: whether with what each token stands for"),
        ("`tokens`", "detokenize", "`prompt_token_ids`"),
        *((f"`{name}`", "embeddings, rerank", "none: it has no effect") for name in sorted(schemas.NO_EFFECT)),
    ]
    tables = [value for name, value in vars(schemas_tasks).items() if name.endswith("_FIELDS")]
    told = {name.strip(" `") for row in rows for name in row[0].split(",")}
    missing = set().union(*(table.mapped for table in tables)) - told - {"text"}  # of a document
    if missing:
        raise ValueError(f"the table of the other endpoints lacks {sorted(missing)}")
    return _table("field | endpoint | becomes", rows)


def statuses() -> str:
    rows = (
        (f"`{status}`", str(http.status), f"`{http.code}`" if http.code else "")
        for status, http in GRPC_TO_HTTP.items()
    )
    return _table("gRPC status | HTTP status | `code`", rows)


TABLES: dict[str, Callable[[], str]] = {
    "sidecar options": lambda: options(sidecar),
    "worker options": lambda: options(worker),
    "fields": fields,
    "task fields": task_fields,
    "refused": refused,
    "statuses": statuses,
}


def fill(text: str) -> str:
    """The README with its tables as the code has them. Raises ValueError if one has no place in it."""
    for name, table in TABLES.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for the table {name!r}")
        content = table()
        text = pattern.sub(lambda match, content=content: match[1] + content + match[2], text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    before = README.read_text()
    after = fill(before)
    if "--check" not in sys.argv:
        README.write_text(after)
    elif before != after:
        sys.exit("README.md is not up to date: run `make docs`")
