"""Fills the tables of docs/ from the code. `--check` fails where a table differs from the code.

Each stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from anyserve_worker.__main__ import main as worker
from openai_server.__main__ import main as sidecar
from openai_server.api import schemas
from openai_server.api.conversations.request import MAX_ITEMS
from openai_server.api.registry import ENDPOINTS
from openai_server.backends.dialects.anyserve.encode_tasks import EMBEDDING
from openai_server.core.errors import GRPC_TO_HTTP
from protos.contract import PRIORITY
from scripts import dialects, fields, metrics

ROOT = Path(__file__).parents[1]


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


_SUMMARIES = {"/docs": "Reference page that can send requests", "/openapi.json": "The OpenAPI 3.1 document"}
"""By the endpoint's name: where the summary in the OpenAPI document is missing or would mislead here."""


def endpoints() -> str:
    rows = (
        (
            f"`{endpoint.method} {endpoint.name}`",
            _SUMMARIES.get(endpoint.name) or (description.summary if (description := endpoint.described()) else ""),
            "no" if endpoint.is_open else "yes",
            "`--admin-port` if set" if endpoint.is_administration else "`--port`",
        )
        for endpoint in ENDPOINTS
    )
    return _table("endpoint | summary | API key | served on", rows)


def task_fields() -> str:
    """Request field → tensor, of the endpoints that generate nothing."""
    rows = [
        ("`model`", "all but those of stored objects", "`model_name`; absent: the first served model"),
        ("`input`", "embeddings", "`prompt`, or `prompt_token_ids` for token ids; one request an input"),
        ("`encoding_format`", "embeddings", "the response's form: `float` or `base64`"),
        *((f"`{name}`", "embeddings", f"`{spec.name}` {spec.datatype}") for name, spec in EMBEDDING.items()),
        ("`priority`", "embeddings, rerank", f"`{PRIORITY.name}` {PRIORITY.datatype}"),
        ("`query`, `documents`", "rerank", "`prompt` and `document`; one request a document"),
        ("`top_n`, `return_documents`", "rerank", "the response: how many of the best, and whether with their text"),
        ("`content`, `prompt`, `messages`", "tokenize", "`prompt`; `messages` rendered with the model's chat template"),
        ("`add_special`, `add_special_tokens`", "tokenize", "`add_special` BOOL"),
        ("`parse_special`", "tokenize", "`parse_special` BOOL"),
        ("`with_pieces`, `return_token_strs`", "tokenize", "the response: whether with the text of each token"),
        ("`tokens`", "detokenize", "`prompt_token_ids`"),
        (
            "`items`",
            "conversations",
            f"what is stored: up to {MAX_ITEMS} [items](#objects-in-requests), as in the input of a response",
        ),
        ("`metadata`", "conversations, batches", "what is stored, as in a response; null removes it"),
        ("`file`", "files", "the content and the name of the file; a field of a form, as the two below"),
        ("`expires_after[anchor]`, `expires_after[seconds]`", "files", "the time at which the file is deleted"),
        ("`data`", "uploads/{upload_id}/parts", "the content of the part; a field of a form"),
        ("`purpose`", "files, uploads", "what is stored; a file with `batch` expires after 30 days by default"),
        ("`bytes`, `filename`, `mime_type`", "uploads", "what is stored; the parts must have this number of bytes"),
        ("`expires_after`", "uploads", "`anchor` and `seconds`, as in files"),
        ("`part_ids`, `md5`", "uploads/{upload_id}/complete", "the parts of the file in order, and its digest"),
        ("`input_file_id`", "batches", "a file with the purpose `batch`, whose lines are the requests"),
        ("`endpoint`", "batches", "the `url` of all lines"),
        (
            "`completion_window`",
            "batches",
            "the time until the batch expires: `24h`, or such as `30m` and `7d`",
        ),
        ("`output_expires_after`", "batches", "`anchor` and `seconds`: the time at which the output files are deleted"),
        *((f"`{name}`", "embeddings, rerank", "none: it has no effect") for name in sorted(schemas.NO_EFFECT)),
    ]
    tables = [table for name, table in fields.TABLES.items() if name not in fields.OWN_TABLES]
    listed = {name.strip(" `") for row in rows for name in row[0].split(",")}
    missing = set().union(*(table.mapped for table in tables)) - listed
    if missing:
        raise ValueError(f"the table of the other endpoints lacks {sorted(missing)}")
    return _table("field | endpoint | becomes", rows)


def statuses() -> str:
    rows = (
        (f"`{status}`", str(http.status), f"`{http.code}`" if http.code else "")
        for status, http in GRPC_TO_HTTP.items()
    )
    return _table("gRPC status | HTTP status | `code`", rows)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/configuration.md": {
        "sidecar options": lambda: options(sidecar),
        "worker options": lambda: options(worker),
    },
    "docs/api.md": {
        "endpoints": endpoints,
        "statuses": statuses,
    },
    "docs/backends.md": {
        "dialects": lambda: _table(dialects.header(), dialects.rows()),
    },
    "docs/metrics.md": {
        "sidecar metrics": lambda: _table(metrics.HEADER, metrics.sidecar()),
        "vllm metrics": lambda: _table(metrics.HEADER, metrics.vllm()),
        "worker metrics": lambda: _table(metrics.HEADER, metrics.worker()),
    },
    "docs/fields.md": {
        "completions": lambda: _table(fields.HEADER, fields.completions()),
        "chat": lambda: _table(fields.HEADER, fields.chat()),
        "responses": lambda: _table(fields.HEADER, fields.responses()),
        "messages": lambda: _table(fields.HEADER, fields.messages()),
        "messages objects": lambda: _table(fields.MESSAGES_OBJECTS_HEADER, fields.messages_objects()),
        "task fields": task_fields,
        "neutral": lambda: _table(fields.NEUTRAL_HEADER, fields.neutral()),
        "objects": lambda: _table(fields.OBJECTS_HEADER, fields.objects()),
    },
}


def fill(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Returns the text with `tables` filled in. Raises ValueError if the text has no place for one of them."""
    for name, table in tables.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"there is no place for the table {name!r}")
        content = table()
        text = pattern.sub(lambda match, content=content: match[1] + content + match[2], text)  # type: ignore[misc]
    return text


def main(*, check: bool) -> None:
    for name, tables in TABLES.items():
        path = ROOT / name
        before = path.read_text()
        after = fill(before, tables)
        if not check:
            path.write_text(after)
        elif before != after:
            sys.exit(f"{name} is not up to date: run `make docs`")


if __name__ == "__main__":
    main(check="--check" in sys.argv)
