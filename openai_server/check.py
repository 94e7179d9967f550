"""`python -m openai_server check`: prints how this server calls each model, and generates a token with each."""

import asyncio
import time
from collections.abc import Iterable, Iterator

import click

from openai_server.app import App
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.base import DEFAULT_TEMPLATE, Target
from openai_server.backends.directory import Model
from openai_server.backends.model_settings import ModelSettings
from openai_server.backends.pool import Pool
from openai_server.config import Config
from openai_server.core.errors import APIError, BackendError
from openai_server.core.request_context import RequestContext
from openai_server.core.turn import Sampling, Turn
from openai_server.serving import backends
from openai_server.tokenizing.tokenizers import BadTokenizer
from protos import contract

PROMPT = "Hello"
SILENCE = 60.0
"""Seconds after which a silent stream is looked at; it goes on."""
CLIENT_FIELDS = {
    contract.PROMPT_TOKEN_IDS.name: "token ids as prompt",
    contract.JSON_SCHEMA.name: "json_schema",
    contract.LOGIT_BIAS_TOKEN_IDS.name: "",
    contract.LARK.name: "strict tools",
    contract.MARK_BEGIN.name: "",
    contract.MARK_END.name: "",
    contract.MAX_MARKED_TOKENS.name: "thinking_token_budget",
    contract.PLAIN_SPANS.name: "",
    contract.LENIENT_SCHEMA.name: "",
    contract.INCLUDE_STOP.name: "",
}
"""Input of the contract → the client's name, where they differ; empty if no client sets it by itself."""


def run(config: Config) -> bool:
    """Prints the report. Returns whether each text model has answered, and there is at least one."""
    return asyncio.run(_check(config))


async def _check(config: Config) -> bool:
    pool = backends(config)
    try:
        app = App(config, pool)
    except BadTokenizer as error:
        raise click.ClickException(f"--tokenizer: {error}.") from error
    watch = asyncio.create_task(pool.watch())
    try:
        return await _report(app, pool, app.services.catalog)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await app.services.bodies.close()
        await pool.close()


async def _report(app: App, pool: Pool, catalog: Catalog) -> bool:
    await pool.resolved(5)
    try:
        models = await catalog.found()
    except (BackendError, APIError) as error:
        click.echo(f"no models: {error}")
        return False
    results = []
    for member in pool.members:
        try:
            server = await member.backend.server()
        except BackendError as error:
            click.echo(f"backend {member.backend.target}: {error.message}")
            results.append(False)
        else:
            click.echo(f"backend {member.backend.target}: {server.name or 'without a name'}")
    has_text = False
    for model in models:
        click.echo(f"\nmodel {model.name}")
        for title, text in describe(model, catalog.settings):
            click.echo(line(title, text))
        if model.is_text_model:
            has_text = True
            results.append(await _try(app, model))
    if not has_text:
        click.echo("\nno text model")
    return has_text and all(results)


def describe(model: Model, settings: ModelSettings) -> Iterator[tuple[str, str]]:
    """Yields the lines of the report, each with its title."""
    if model.dialect is None or model.description is None:
        yield "dialect", f"none: {model.reason}. Choose one with --dialect, or describe it with --mapping"
        for title, tensors in (
            ("inputs", model.description.inputs if model.description else ()),
            ("outputs", model.description.outputs if model.description else ()),
        ):
            yield title, ", ".join(f"{t.name} {t.datatype}{list(t.shape)}" for t in tensors) or "none reported"
        return
    explanation = model.dialect.explain()
    yield "dialect", f"{model.dialect.name}: {model.reason}"
    yield "call", explanation.rpc
    yield from explanation.inputs.items()
    names: Iterable[str] | None = explanation.refused
    if names is None:
        others = (spec.name for spec in contract.INPUTS if spec.name not in explanation.inputs)
        names = (CLIENT_FIELDS.get(name, name) for name in others)
    yield "refused", ", ".join(filter(None, names)) or "nothing"
    yield "text", explanation.text
    yield "end of a stream", explanation.end
    yield "finish reason", explanation.finish_reason
    yield "token counts", explanation.counts
    yield "log probabilities", explanation.logprobs
    if model.dialect.takes_messages:
        yield "chat", "messages are sent as they are"
    else:
        yield "chat template", _template(model, settings)
    yield "context length", str(model.context_length or "unknown")


def _template(model: Model, settings: ModelSettings) -> str:
    template = model.parameters.get("chat_template")
    if template is None and DEFAULT_TEMPLATE in model.parameters:
        return "none: chats get ChatML"
    if template is None:
        return "none: chats get 400. Set one with --chat-template or --tokenizer"
    origin = settings.template_option(model.name, template)
    if not origin and model.dialect is not None and model.dialect.parameters.get("chat_template") == template:
        origin = "the mapping file"
    return f"from {origin or 'ModelConfig'}, {len(template)} characters"


async def _try(app: App, model: Model) -> bool:
    """Generates a token, and prints the result."""
    limit = 1 if contract.MAX_TOKENS.name in model.input_names else None
    turn = Turn(model=model.name, prompts=[PROMPT], sampling=Sampling(), token_limit=limit, names={})
    if model.dialect is not None and contract.PROMPT.name not in model.input_names:
        click.echo(line("one token", "not tried: the model takes no prompt"))
        return True
    start = time.perf_counter()
    try:
        _, [answer] = await app.services.generator.answer(turn, "check", RequestContext())
    except (APIError, BackendError) as error:
        click.echo(line("one token", f"failed: {error}"))
        return False
    [choice] = answer.choices
    usage = f"{answer.usage.prompt} + {answer.usage.completion} tokens" if answer.usage else "no token counts"
    milliseconds = (time.perf_counter() - start) * 1000
    reason = choice.finish_reason or "no finish reason"
    click.echo(line("one token", f"{choice.text!r}, {reason}, {usage}, {milliseconds:.0f} ms"))
    return await _try_stream(app, model, turn)


async def _try_stream(app: App, model: Model, turn: Turn) -> bool:
    """Streams a token, and prints the result: a backend may end its streams in another manner than is expected."""
    assert model.dialect is not None
    name, version = model.address
    target = Target(name, model.input_names, "check", version)
    [call] = model.dialect.calls(turn, turn.prompts, target, {}, streams=True)
    call.model = model.name
    n_rows, reason = 0, None
    try:
        async with app.services.pool.stream([call], model.members, SILENCE) as mailbox:
            while not mailbox.is_over:
                rows = await mailbox.take()
                n_rows += len(rows)
                reason = next((reason for *_, reason, _ in rows if reason), reason)
    except BackendError as error:
        click.echo(line("one token, streamed", f"failed: {error}"))
        return False
    click.echo(line("one token, streamed", f"{n_rows} pieces, {reason or 'no finish reason'}"))
    return True


def line(title: str, text: str) -> str:
    return f"  {title:<22}{text}"
