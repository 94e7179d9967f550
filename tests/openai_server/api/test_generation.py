"""The generator sends a request to the backend and returns its answer; pool, catalog and planner are fakes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from openai_server.access.caps import Caps
from openai_server.access.turns import FairThreads
from openai_server.api import generation
from openai_server.api.answers import AnswerIdentity, AnswerOptions
from openai_server.api.chat.writer import ChatWriter
from openai_server.api.chunk_writer import ChunkWriter
from openai_server.api.completions.writer import CompletionWriter
from openai_server.api.generation import Generator, ResolvedModel
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.base import Call
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.backends.directory import Failed, Model
from openai_server.backends.mailbox import Mailbox
from openai_server.backends.pool import Pool
from openai_server.core.answer import Answer
from openai_server.core.errors import APIError, BackendError
from openai_server.core.messages import Message
from openai_server.core.request_context import RequestContext
from openai_server.core.timings import Progress
from openai_server.core.turn import Sampling, Turn
from openai_server.core.usage import PromptUsage, Usage
from openai_server.http import sse
from openai_server.http.streaming import EventWriter
from openai_server.prompting.deferred import DeferredPlanner
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.backends.fakes import away
from tests.openai_server.exchange import FakeExchange
from tests.wire.fake_worker import whole

USAGE = Usage(3, 2, 1)
FAILED: Failed = frozenset({(cast(Any, "member"), "m")})


def turn(*prompts: str, **fields: Any) -> Turn:
    return Turn(model="m", prompts=prompts or ("hello",), sampling=Sampling(), names={"messages": "messages"}, **fields)


class FakeCatalog:
    """A catalog of one model, which allows `n_retries` retries of a failed request."""

    def __init__(self, n_retries: int = 0) -> None:
        self.n_retries = n_retries
        self.left_out: list[Failed] = []
        """Members that each attempt had to leave out."""

    async def use(
        self, requested: str | None, failed: Failed, build: Callable[[Model], Coroutine[Any, Any, Any]]
    ) -> Any:
        self.left_out.append(failed)
        return await build(Model(EVERYTHING, {}, "found", ()))

    async def retry(self, error: BackendError, requested: str | None, failed: Failed) -> Failed | None:
        self.n_retries -= 1
        return None if self.n_retries < 0 else failed | FAILED

    def context_length(self, requested: str | None) -> int | None:
        return None


class FakePool:
    """Returns `answers` to whole requests in order (None: never answers). Tests fill the mailboxes of streams."""

    def __init__(self, *answers: ModelInferResponse | BackendError | None) -> None:
        self.answers = list(answers)
        self.calls: list[ModelInferRequest] = []
        self.n_running = self.most_running = 0
        self.mailboxes = asyncio.Queue[Mailbox]()
        self.ping_interval = 60.0

    async def answer(self, call: Call, members: Sequence[object]) -> Answer:
        self.calls.append(call.request)
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        try:
            await asyncio.sleep(0)
            answer = self.answers.pop(0)
            if answer is None:
                await asyncio.Event().wait()
        finally:
            self.n_running -= 1
        assert answer is not None
        if isinstance(answer, BackendError):
            raise answer
        assert call.read_whole is not None
        return call.read_whole(answer, call.n)

    @asynccontextmanager
    async def stream(
        self, calls: Sequence[Call], members: Sequence[object], ping_interval: float
    ) -> AsyncIterator[Mailbox]:
        self.calls += [call.request for call in calls]
        mailbox = Mailbox(len(calls), lambda *_: lambda: None, ping_interval=ping_interval)
        self.mailboxes.put_nowait(mailbox)
        try:
            yield mailbox
        finally:
            mailbox.close()


class Exchange(FakeExchange):
    """An exchange that records writes in its client."""

    def __init__(self, client: "Client") -> None:
        super().__init__(is_free=False)
        self._client = client

    def write_now(self, part: bytes) -> None:
        self._client.written.append(("now", part))


class Client:
    """Records what is written to it, by the stream's task ("task") or by the sink at once ("now")."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes]] = []
        self.now = Exchange(self)
        self.writer = EventWriter(self._send, [], self.now)
        self.wrote = asyncio.Queue[bytes]()
        self.fails = False

    async def _send(self, message: Any) -> None:
        if self.fails:
            raise OSError("gone")
        self.now.is_free = True  # the head has been sent
        if "body" in message:
            self.written.append(("task", message["body"]))
            self.wrote.put_nowait(message["body"])


class Stream:
    """A streamed request that is running."""

    def __init__(
        self,
        *prompts: str,
        n_retries: int = 0,
        ping_interval: float = 60,
        writer: type[ChunkWriter] = CompletionWriter,
        **fields: Any,
    ) -> None:
        self.pool = FakePool()
        self.catalog = FakeCatalog(n_retries)
        self.client = Client()
        self._writer = writer
        self.context = RequestContext()
        self.deliveries: list[tuple[list[Usage | None], int, int]] = []
        generator = new_generator(self.pool, self.catalog, ping_interval=ping_interval)
        self.task = asyncio.create_task(
            generator.stream(
                turn(*prompts, **fields), "id", self.context, self._writer_for, self.client.writer, self._delivered
            )
        )

    def _writer_for(self, model: ResolvedModel) -> ChunkWriter:
        return self._writer(AnswerIdentity("id", 0, model.name), AnswerOptions(include_usage=True))

    def _delivered(self, usages: Sequence[Usage | None], n_prompts: int, n_tokens: int) -> None:
        self.deliveries.append((list(usages), n_prompts, n_tokens))

    async def mailbox(self) -> Mailbox:
        """Returns the mailbox of the next attempt when its reader waits."""
        attempt = asyncio.create_task(self.pool.mailboxes.get())
        await asyncio.wait((attempt, self.task), return_when=asyncio.FIRST_COMPLETED)
        assert not self.task.done(), self.task
        mailbox = await attempt
        await until_waiting(mailbox)
        return mailbox


async def until_waiting(mailbox: Mailbox) -> None:
    for _ in range(100):
        if mailbox._waiter is not None:
            return
        await asyncio.sleep(0)
    raise AssertionError("no reader waits")


def new_generator(
    pool: FakePool, catalog: FakeCatalog, planner: object = None, *, ping_interval: float = 60
) -> Generator:
    return Generator(
        cast(Pool, pool),
        cast(Catalog, catalog),
        cast(DeferredPlanner, planner),
        Caps(),
        FairThreads(1, name="test", waiting=8, queue_timeout=1),
        ping_interval=ping_interval,
        new_id=lambda: "call_1",
    )


# ---- Whole answers


async def test_an_answer_has_the_resolved_model() -> None:
    pool, context = FakePool(whole("yes")), RequestContext()
    model, [answer] = await new_generator(pool, FakeCatalog()).answer(turn(), "id", context)
    assert (model, context.model) == (ResolvedModel("found"), "found")
    assert [choice.text for choice in answer.choices] == ["yes"]
    [call] = pool.calls
    assert (call.model_name, call.id) == ("found", "id")


async def test_prompts_are_answered_in_order_and_a_limited_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PROMPTS_IN_FLIGHT", 2)
    pool = FakePool(*(whole(str(k)) for k in range(5)))
    _, answers = await new_generator(pool, FakeCatalog()).answer(turn(*"abcde"), "id", RequestContext())
    assert [answer.choices[0].text for answer in answers] == list("01234")
    assert [call.id for call in pool.calls] == [f"id-{k}" for k in range(5)]
    assert pool.most_running == 2


async def test_a_failing_prompt_cancels_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PROMPTS_IN_FLIGHT", 2)
    pool = FakePool(BackendError("INTERNAL", "no"), *[None] * 4)
    with pytest.raises(APIError) as caught:
        await new_generator(pool, FakeCatalog()).answer(turn(*"abcde"), "id", RequestContext())
    assert caught.value.status == 500
    await asyncio.sleep(0)
    assert pool.n_running == 0
    assert len(pool.calls) < 5


class BeginWriter(CompletionWriter):
    """Writes the counts of the prompt that `begin` gets."""

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        super().begin(n_choices, prompt)
        return repr(prompt).encode() + b"\n"


@pytest.mark.parametrize("is_reported", [True, False])
async def test_a_stream_begins_with_the_counts_of_the_prompt(is_reported: bool) -> None:
    stream = Stream(writer=BeginWriter)
    mailbox = await stream.mailbox()
    if is_reported:
        mailbox.begin(0, PromptUsage(3, 1))
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    begin, _, _ = (await stream.client.wrote.get()).partition(b"\n")
    assert begin.decode() == repr(Usage(3, 0, 1) if is_reported else None)
    mailbox.end(0, USAGE)
    await stream.task


async def test_progress_is_no_token() -> None:
    stream = Stream(progress=True)
    mailbox = await stream.mailbox()
    mailbox.report([Progress(9, 4, 4, 0.0)])
    assert b"prompt_progress" in await stream.client.wrote.get()
    assert (stream.context.first_token, mailbox.n_taken) == (None, 0)
    await until_waiting(mailbox)
    mailbox.report([Progress(9, 4, 9, 1.0)])
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert b'"processed":9' in await stream.client.wrote.get()
    assert stream.context.first_token is not None
    mailbox.end(0, USAGE)
    await stream.task


async def test_a_request_is_retried_after_progress() -> None:
    stream = Stream(progress=True, n_retries=1)
    mailbox = await stream.mailbox()
    mailbox.report([Progress(9, 4, 4, 0.0)])
    await stream.client.wrote.get()
    mailbox.fail(0, away())
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", "stop")
    mailbox.end(0, USAGE)
    assert b'"text":"a"' in await stream.task


async def test_an_empty_stream_begins_with_the_counts_at_its_end() -> None:
    stream = Stream(writer=BeginWriter)
    (await stream.mailbox()).end(0, Usage(3, 0, None))
    assert (await stream.task).startswith(repr(Usage(3, 0, None)).encode())


async def test_a_request_is_retried_without_the_backends_that_failed() -> None:
    catalog = FakeCatalog(n_retries=1)
    _, [answer] = await new_generator(FakePool(away(), whole("yes")), catalog).answer(turn(), "id", RequestContext())
    assert answer.choices[0].text == "yes"
    assert catalog.left_out == [frozenset(), FAILED]


async def test_a_request_that_cannot_be_retried_fails_with_an_api_error() -> None:
    catalog = FakeCatalog(n_retries=1)
    with pytest.raises(APIError) as caught:
        await new_generator(FakePool(away(), away()), catalog).answer(turn(), "id", RequestContext())
    assert (caught.value.status, caught.value.code) == (503, "backend_unavailable")
    assert isinstance(caught.value.__cause__, BackendError)
    assert len(catalog.left_out) == 2


async def test_the_best_of_the_generated_choices_are_returned() -> None:
    pool = FakePool(whole("a", "b", "c"))
    _, [answer] = await new_generator(pool, FakeCatalog()).answer(
        turn(n_to_send=3, n_returned=2), "id", RequestContext()
    )
    assert [choice.index for choice in answer.choices] == [0, 1]


async def test_a_chat_is_planned_with_its_caller_before_it_is_sent() -> None:
    planned: list[str] = []

    async def plan(turn: Turn, *_: object, caller: str) -> Any:
        planned.append(caller)
        return SimpleNamespace(turn=turn, prompt="planned", inputs={}, format=None)

    pool = FakePool(whole("yes"))
    chat = turn()
    chat.messages, chat.prompts = cast(Sequence[Message], ["message"]), ()
    generator = new_generator(pool, FakeCatalog(), SimpleNamespace(plan=plan))
    await generator.answer(chat, "id", RequestContext(caller="caller"))
    assert planned == ["caller"]
    assert b"planned" in pool.calls[0].SerializeToString()


# ---- Streams


def text_of(events: bytes) -> list[str]:
    """Returns the texts of the events."""
    return [choice["text"] for chunk in chunks_of(events) for choice in chunk["choices"]]


def chunks_of(events: bytes) -> list[Any]:
    return [orjson.loads(line[len(sse.DATA) :]) for line in events.split(b"\n\n") if line.startswith(b"data: {")]


async def test_the_task_writes_the_first_events_and_the_sink_later_ones() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    for text in (b"a", b"b", b"c"):
        mailbox.put(0, text, None)
        mailbox.deliver()
        await until_waiting(mailbox)
    assert [(by, text_of(events)) for by, events in stream.client.written] == [
        ("task", ["a"]),
        ("now", ["b"]),
        ("now", ["c"]),
    ]
    stream.task.cancel()


async def test_the_task_writes_while_the_client_does_not_read() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    for is_free, text in ((False, b"a"), (False, b"b"), (True, b"c")):
        stream.client.now.is_free = is_free
        mailbox.put(0, text, None)
        mailbox.deliver()
        await until_waiting(mailbox)
    assert [by for by, _ in stream.client.written] == ["task", "task", "now"]
    stream.task.cancel()


async def test_the_last_events_are_returned_instead_of_written() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    await until_waiting(mailbox)
    mailbox.put(0, b"b", "stop")
    mailbox.end(0, USAGE)
    last = await stream.task
    assert [text_of(events) for _, events in stream.client.written] == [["a"]]
    assert text_of(last) == ["b"]
    assert last.endswith(sse.DONE)
    assert b'"total_tokens":5' in last
    assert stream.deliveries == [([USAGE], 1, 2)]
    assert (stream.context.usage, stream.context.finish_reasons) == (USAGE, ["stop"])


async def test_an_answer_that_is_complete_at_once_is_returned_whole() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", "stop")
    mailbox.end(0, USAGE)
    assert text_of(await stream.task) == ["a"]
    assert not stream.client.written
    assert stream.context.first_token is not None


async def test_the_choices_of_all_prompts_share_one_stream() -> None:
    stream = Stream("x", "y", n_to_send=2, n_returned=2)
    mailbox = await stream.mailbox()
    for index in range(4):
        mailbox.put(index, b"%d" % index, "stop")
    for k in range(2):
        mailbox.end(k, USAGE)
    assert text_of(await stream.task) == ["0", "1", "2", "3"]
    assert stream.context.choices == 4
    assert stream.context.usage == Usage(6, 4, 2)


async def test_pings_are_sent_while_no_events_come() -> None:
    stream = Stream(ping_interval=0.001)
    assert await stream.client.wrote.get() == sse.PING
    assert await stream.client.wrote.get() == sse.PING
    stream.task.cancel()


async def test_the_first_events_after_a_ping_begin_the_stream() -> None:
    stream = Stream(ping_interval=0.001, n_retries=1, writer=ChatWriter)
    await stream.client.wrote.get()
    mailbox = stream.pool.mailboxes.get_nowait()
    await until_waiting(mailbox)
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    [events] = [events for way, events in stream.client.written if way == "now"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(events)]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}]
    assert stream.context.first_token is not None
    mailbox.fail(0, away())
    with pytest.raises(APIError):
        await stream.task
    assert stream.catalog.left_out == [frozenset()], "it is not retried"


# ---- Failing streams


async def test_a_stream_is_retried_before_its_first_event() -> None:
    stream = Stream(n_retries=1)
    (await stream.mailbox()).fail(0, away())
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", "stop")
    mailbox.end(0, USAGE)
    assert text_of(await stream.task) == ["a"]
    assert stream.catalog.left_out == [frozenset(), FAILED]
    assert stream.deliveries == [([], 1, 0), ([USAGE], 1, 1)]


async def test_a_stream_is_not_retried_after_its_first_event() -> None:
    stream = Stream(n_retries=1)
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    await until_waiting(mailbox)
    mailbox.fail(0, away())
    with pytest.raises(APIError) as caught:
        await stream.task
    assert caught.value.status == 503
    assert stream.catalog.left_out == [frozenset()]
    assert stream.deliveries == [([], 1, 1)]
    assert stream.context.delivered == 1


async def test_delivered_tokens_are_counted_when_the_client_disconnects() -> None:
    stream = Stream("x", "y")
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", "stop")
    mailbox.end(0, USAGE)
    await until_waiting(mailbox)
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.task
    assert stream.deliveries == [([USAGE], 2, 1)]
    assert stream.context.delivered == 2


async def test_the_counts_of_the_prompt_are_known_when_the_client_disconnects() -> None:
    stream = Stream("a", "b")
    mailbox = await stream.mailbox()
    mailbox.begin(0, PromptUsage(3, 1))
    mailbox.put(0, b"x", None)
    mailbox.end(1, USAGE)
    mailbox.deliver()
    await stream.client.wrote.get()
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.task
    assert stream.deliveries == [([Usage(6, 2, 2)], 1, 1)]


async def test_delivered_tokens_are_counted_when_a_write_fails() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    stream.client.fails = True
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    with pytest.raises(OSError, match="gone"):
        await stream.task
    assert stream.deliveries == [([], 1, 1)]


async def test_an_error_in_the_sink_ends_the_stream() -> None:
    stream = Stream()
    mailbox = await stream.mailbox()
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    await until_waiting(mailbox)
    mailbox.put(9, b"no such choice", None)
    mailbox.deliver()
    with pytest.raises(IndexError):
        await stream.task
    assert stream.deliveries == [([], 1, 1)]
