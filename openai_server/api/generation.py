"""Generates the answer to one request: one call to the backend per prompt, and the combined answers."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from openai_server.access.caps import Caps
from openai_server.access.turns import FairThreads
from openai_server.api.answer_stream import AnswerStream
from openai_server.api.collected_answer import CollectedAnswer
from openai_server.api.in_tier import takes_priority, turn_in_tier
from openai_server.api.reporting_stream import ReportingStream
from openai_server.api.stream_writer import StreamWriter
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.base import Call, Dialect, ServerInputs, Target
from openai_server.backends.directory import Failed, Model
from openai_server.backends.mailbox import PROMPTS_IN_FLIGHT, Mailbox
from openai_server.backends.pool import Member, Pool
from openai_server.core import truncation
from openai_server.core.answer import Answer, best
from openai_server.core.best_effort import without_refused_schema
from openai_server.core.context_length import Room
from openai_server.core.errors import APIError, BackendError, UnsupportedParameter, from_backend
from openai_server.core.messages import size_of
from openai_server.core.request_context import RequestContext
from openai_server.core.rows import Row
from openai_server.core.turn import Turn
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.event_reader import events_format
from openai_server.prompting.deferred import DeferredPlanner
from protos import contract

T = TypeVar("T")

Delivered = Callable[[Sequence[Usage | None], int, int], None]
"""Called with the usage of the prompts with complete answers, the number of prompts, and the number of received
tokens. Where the backend has counted all prompts, their usage so far is that of a single one."""


class Exchange(Protocol):
    """Takes events without waiting."""

    @property
    def is_free(self) -> bool:
        """Whether `write_now` is possible."""

    def write_now(self, part: bytes) -> None: ...


class EventSink(Protocol):
    """Takes the events of one stream, for a client or for the store."""

    failure: Callable[[APIError], bytes]
    """Returns the last events of a stream that failed. The generator sets it."""

    @property
    def exchange(self) -> Exchange: ...

    async def write(self, events: bytes) -> None:
        """Takes events, which may be empty, and waits if there are too many already."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model that answers, and how its text is parsed."""

    name: str
    format: AnswerFormat | None = None
    """None: all text is content."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    model: ResolvedModel
    members: Sequence[Member]
    """Backends that the calls were built for."""
    calls: list[Call]
    dialect: Dialect


class Generator:
    """Runs generations. After every `ping_interval` seconds without an event, a stream's client gets a ping. `new_id`
    creates the ids of tool calls that a backend reports without one. `threads` build calls with long conversations."""

    def __init__(
        self,
        pool: Pool,
        catalog: Catalog,
        planner: DeferredPlanner,
        caps: Caps,
        threads: FairThreads,
        *,
        ping_interval: float,
        new_id: Callable[[], str],
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._planner = planner
        self._caps = caps
        self._threads = threads
        self.ping_interval = ping_interval
        self._new_id = new_id

    async def answer(self, turn: Turn, id: str, context: RequestContext) -> tuple[ResolvedModel, list[Answer]]:
        """The model that answered, and the answer to each prompt. Raises APIError."""
        failed: Failed = frozenset()
        n_amended, prepared = 0, None
        while True:
            try:
                prepared = await self._prepare(turn, id, failed, context, streams=False)
                calls = prepared.calls
                if len(calls) == 1:
                    return prepared.model, [await self._answer(calls[0], prepared, turn)]
                return prepared.model, await gather([self._answer(call, prepared, turn) for call in calls])
            except BackendError as error:
                if (amended := self._amended(turn, error, n_amended + 1)) is not None:
                    turn, n_amended = amended, n_amended + 1
                    continue
                if (left_out := await self._catalog.retry(error, turn.model, failed)) is None:
                    raise self._failed(error, turn, prepared) from error
                failed = left_out

    async def stream(
        self,
        turn: Turn,
        id: str,
        context: RequestContext,
        writer_for: Callable[[ResolvedModel], StreamWriter],
        writer: EventSink,
        delivered: Delivered,
    ) -> bytes:
        """Writes the events of the answer except the last ones, which it returns.

        `delivered` is called at the end, after a failure too. Raises APIError.
        """
        failed: Failed = frozenset()
        answer: AnswerStream | None = None
        n_amended, last, prepared = 0, b"", None
        while True:
            try:
                prepared = await self._prepare(turn, id, failed, context, streams=True)
                members = prepared.members
                n_choices = len(prepared.calls) * turn.n_returned
                kind = ReportingStream if turn.timings or turn.progress else AnswerStream
                answer = kind(writer_for(prepared.model), n_choices, prepared.model.format)
                writer.failure = answer.failure
                context.begin_stream(n_choices, answer.finish_reasons)
                async with self._pool.stream(prepared.calls, members, self.ping_interval) as mailbox:
                    answer.source = mailbox
                    mailbox.sink = partial(_write_now, answer, writer.exchange, context, mailbox)
                    try:
                        while not mailbox.is_over:
                            rows = await mailbox.take()
                            events = answer.take(rows)
                            if answer.is_cut_off:
                                mailbox.stop()
                            if events:
                                if context.first_token is None and rows:
                                    context.take_first_token()
                                if mailbox.is_over:
                                    last = events  # to write them together with the events at the end
                                else:
                                    await writer.write(events)
                            elif not (rows or mailbox.is_over):
                                await writer.write(answer.ping)
                    except BaseException:
                        context.cut_off(mailbox.usages, mailbox.n_taken)
                        raise
                    finally:
                        if (counted := mailbox.usage) is not None:
                            delivered([counted], 1, mailbox.n_taken)
                        else:
                            delivered(mailbox.usages, len(prepared.calls), mailbox.n_taken)
                context.usage = mailbox.usage
                return last + answer.end(context.usage)
            except BackendError as error:
                has_begun = answer is not None and answer.has_begun
                if not has_begun and (amended := self._amended(turn, error, n_amended + 1)) is not None:
                    turn, n_amended = amended, n_amended + 1
                    continue
                left_out = None if has_begun else await self._catalog.retry(error, turn.model, failed)
                if left_out is None:
                    raise self._failed(error, turn, prepared) from error
                failed = left_out

    def _failed(self, error: BackendError, turn: Turn, prepared: _Prepared | None) -> APIError:
        """`prepared`: None if the error is from before the calls."""
        return from_backend(error, prepared.dialect.fields(turn) if prepared else {}, self._room(turn))

    def _amended(self, turn: Turn, error: BackendError, attempt: int) -> Turn | None:
        """The turn without what the backend refuses, if the client allows that: its oldest messages if the prompt is
        too long, or the schema of a tool."""
        if error.reason != contract.REASON_CONTEXT_LENGTH:
            return without_refused_schema(turn, error)
        if not turn.drops_oldest:
            return None
        positions = truncation.kept(turn.messages, self._room(turn).reported(error.details), attempt)
        return None if positions is None else turn.with_messages_at(positions)

    def _room(self, turn: Turn) -> Room:
        return Room(self._catalog.context_length(turn.model), turn.token_limit)

    # ---- One call

    async def _answer(self, call: Call, prepared: _Prepared, turn: Turn) -> Answer:
        format, n = prepared.model.format, turn.n_returned
        if call.read_whole is None or (format is not None and format.parallel):
            answer = await self._collect(call, prepared.members, format)
        else:
            answer = await self._pool.answer(call, prepared.members)
        return answer if call.n == n else best(answer, n)

    async def _collect(self, call: Call, members: Sequence[Member], format: AnswerFormat | None) -> Answer:
        """The answer, from the rows of a stream. That of a chat is cut off where its choices only repeat a call."""
        collected = CollectedAnswer(call.n, format if format is not None and format.parallel else None)
        async with self._pool.stream([call], members, self.ping_interval) as mailbox:

            def take(rows: list[Row]) -> bool:
                collected.take(rows)
                if collected.is_cut_off:
                    mailbox.stop()
                return True

            mailbox.sink = take
            while not mailbox.is_over:
                take(await mailbox.take())
        return collected.answer(mailbox.usage, mailbox.timings)

    # ---- Before the calls

    async def _prepare(
        self, turn: Turn, id: str, failed: Failed, context: RequestContext, *, streams: bool
    ) -> _Prepared:
        build = self._build if context.tier.priority is None else self._build_in_tier
        return await self._catalog.use(
            turn.model, failed, lambda model: build(model, turn, id, context, streams=streams)
        )

    async def _build_in_tier(
        self, model: Model, turn: Turn, id: str, context: RequestContext, *, streams: bool
    ) -> _Prepared:
        """With the priority of the tier, if the model has an input for it that can hold the number."""
        if takes_priority(model):
            try:
                return await self._build(model, turn_in_tier(turn, context.tier), id, context, streams=streams)
            except UnsupportedParameter as error:
                if error.param != turn.name("priority"):
                    raise
        return await self._build(model, turn, id, context, streams=streams)

    async def _build(self, model: Model, turn: Turn, id: str, context: RequestContext, *, streams: bool) -> _Prepared:
        context.model = model.name
        dialect = model.require(*_GENERATING)
        if turn.extras and not dialect.answers_in_events:
            _check_extras(turn)
        prompts, format = turn.prompts, None
        inputs: ServerInputs = {}
        if turn.messages and not dialect.takes_messages:
            plan = await self._planner.plan(turn, model.parameters, model.input_names, caller=context.caller)
            self._caps.check_prompts(turn.name("messages"), [plan.prompt])
            turn, prompts, inputs, format = plan.turn, [plan.prompt], plan.inputs, plan.format
        elif turn.messages and dialect.answers_in_events:
            format = events_format(turn, self._new_id)
        name, version = model.address
        target = Target(name, model.input_names, id, version)
        building = dialect.calls(turn, prompts, target, inputs, streams=streams)
        if turn.messages and dialect.takes_messages:
            size = size_of(turn.messages)
            self._caps.check_length(turn.name("messages"), size)
            calls = list(building) if size <= MAX_SIZE else await self._threads.run(context.caller, list, building)
        else:
            calls = list(building) if len(prompts) <= AT_ONCE else await spread(building)
        for call in calls:
            call.model = model.name
        return _Prepared(ResolvedModel(model.name, format), model.members, calls, dialect)


def _write_now(
    answer: AnswerStream, exchange: Exchange, context: RequestContext, mailbox: Mailbox, rows: list[Row]
) -> bool:
    """A mailbox.Sink, once the first four arguments are bound."""
    if not exchange.is_free:
        return False
    events = answer.take(rows)
    if answer.is_cut_off:
        mailbox.stop()
    if events:
        if context.first_token is None:
            context.take_first_token()
        exchange.write_now(events)
    return True


def _check_extras(turn: Turn) -> None:
    """Raises UnsupportedParameter for the extra that is not without effect where nothing follows it. The Responses API
    repeats it in the response."""
    if turn.extras.get("verbosity", _VERBOSITY) != _VERBOSITY and not turn.in_items:
        raise UnsupportedParameter("verbosity", f"This model does not support 'verbosity', except as '{_VERBOSITY}'.")


_VERBOSITY = "medium"
"""OpenAI's default."""
_GENERATING = (contract.TASK_GENERATE, contract.TASK_CHAT, contract.TASK_RESPONSES)
"""Tasks of which a model that generates has one. Its dialect refuses what it can't do."""

MAX_SIZE = 1 << 18
"""Characters of a conversation above which a thread writes it as JSON, which takes about a millisecond."""

# ---- Several at a time

AT_ONCE = 64
"""Items to build before the event loop may run other tasks: about two milliseconds of work."""


async def spread(items: Iterable[T]) -> list[T]:
    """The items as a list. Building them takes time, so other tasks run after every AT_ONCE of them."""
    built = []
    for item in items:
        built.append(item)
        if not len(built) % AT_ONCE:
            await asyncio.sleep(0)
    return built


async def gather(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest."""
    if len(calls) == 1:
        return [await calls[0]]
    slots = asyncio.Semaphore(PROMPTS_IN_FLIGHT)

    async def result(call: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await call

    tasks = [asyncio.create_task(result(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for call in calls:
            call.close()  # needed for calls that never got a slot
