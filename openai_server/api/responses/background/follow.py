"""Follows a background response: its events so far, and further ones as they are stored, from any replica."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import orjson

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.background.event_log import Entry, batches, entries
from openai_server.api.responses.background.replay import BEFORE_FIRST, Replay, settings_of
from openai_server.api.responses.background.service import Background
from openai_server.api.services import Services
from openai_server.core.errors import APIError, InvalidRequest
from openai_server.core.request_context import Access, RequestContext
from openai_server.core.store_errors import NothingStored
from openai_server.http import sse
from openai_server.http.streaming import EventStream, EventWriter
from openai_server.store.records import FINAL, EventBatch, Progress, StoredResponse
from openai_server.store.store import Store

POLL_SECONDS = 0.25
"""Time between two looks for events that another process stores."""
LOCAL_POLL_SECONDS = 2.0
"""The same for a run of this process, which announces its events."""
PART_BYTES = 2 << 10
"""Bytes of the log to render before other tasks run: some hundred records, about two milliseconds."""


async def follow(
    services: Services, context: RequestContext, id: str, starting_after: int | None = None
) -> EventStream:
    """The stream of a background response, from the event after the number `starting_after`; None: from its beginning.

    Raises NothingStored, ResponseNotFound, StoreAway, and InvalidRequest for a response that doesn't run in the
    background.
    """
    store, background = services.store, services.background
    if store is None or background is None:
        raise NothingStored
    owner = context.access.owner
    progress = await store.progress(owner, id, 0, BEFORE_FIRST)
    if not progress.response.is_background:
        raise InvalidRequest(
            f"The events of the response '{id}' are not kept: only those of background responses are.", param="stream"
        )
    after = BEFORE_FIRST if starting_after is None else starting_after
    follower = _Follower(store, background, context.access, id, after, services.generator.ping_interval)
    return EventStream(lambda writer: follower.events(progress, writer))


class _Follower:
    def __init__(
        self, store: Store, background: Background, access: Access, id: str, after: int, ping_interval: float
    ) -> None:
        self._store = store
        self._background = background
        self._access = access
        self._owner = access.owner
        self._id = id
        self._after = after
        """Number of the last event that the client has."""
        self._ping_interval = ping_interval
        self._attempt = 0
        """The attempt that `_replay` renders; 0 before the first one."""
        self._number = -1
        """Number of the last batch that was rendered."""
        self._is_delivered = False
        """Whether the store has recorded that events of the attempt are sent to a client."""
        self._replay: Replay | None = None
        self._written_at = 0.0
        """Time of the last bytes, by the event loop's clock."""

    async def events(self, progress: Progress, writer: EventWriter) -> bytes:
        """Writes the events except the last ones, which it returns."""
        with self._background.news.of(self._id) as news:
            self._written_at = asyncio.get_running_loop().time()
            await writer.write(b"")  # the head: the first event may come late
            while True:
                last = await self._take(progress, writer)
                if last is not None:
                    return last + sse.DONE
                if not progress.batches:
                    await self._wait(news, writer)
                news.clear()
                progress = await self._store.progress(self._owner, self._id, self._attempt, self._number)

    async def _take(self, progress: Progress, writer: EventWriter) -> bytes | None:
        """Writes the events of this progress. Returns the last ones at the end of the stream, or else None."""
        response, is_final = progress.response, progress.response.status in FINAL
        replay = self._replay_of(progress, writer)
        for batch in progress.batches:
            self._access.hold(len(batch.data))  # the replay keeps the text to the end
            for part in _parts(batch):
                if not await self._write(replay, replay.take(part), writer, is_final=is_final):
                    return None
                await asyncio.sleep(0)
            self._number = batch.number
        if replay.is_over:
            return b""
        if progress.batches:
            return None
        await self._write(replay, replay.wait(), writer, is_final=is_final)
        if response.status == "cancelled":
            return b""
        return replay.fail(_error_of(response)) if is_final else None

    def _replay_of(self, progress: Progress, writer: EventWriter) -> Replay:
        """The replay of the current attempt. Nothing of an earlier attempt was written after `response.in_progress`."""
        replay, response = self._replay, progress.response
        if replay is None or progress.attempt != self._attempt:
            identity = AnswerIdentity(response.id, int(response.created_at), response.model)
            replay = self._replay = Replay(identity, settings_of(response.body), after=self._after)
            self._attempt, self._number, self._is_delivered = progress.attempt, -1, False
            new = replay
            writer.failure = lambda error: new.lose(error) + sse.DONE
        return replay

    async def _write(self, replay: Replay, data: bytes, writer: EventWriter, *, is_final: bool) -> bool:
        """False: the attempt has been replaced, and nothing was written."""
        if not data:
            return True
        if replay.has_output and not (is_final or self._is_delivered):
            if not await self._store.deliver(self._owner, self._id, self._attempt):
                return False
            self._is_delivered = True
        self._written_at = asyncio.get_running_loop().time()
        await writer.write(data)
        self._after = replay.last
        return True

    async def _wait(self, news: asyncio.Event, writer: EventWriter) -> None:
        """Waits until there may be more in the store, and keeps the connection open."""
        poll = LOCAL_POLL_SECONDS if self._background.runner.has(self._id) else POLL_SECONDS
        now = asyncio.get_running_loop().time
        if now() - self._written_at >= self._ping_interval:
            self._written_at = now()
            await writer.write(sse.PING)
        rest = max(0.0, self._written_at + self._ping_interval - now())
        with suppress(TimeoutError):
            async with asyncio.timeout(min(poll, rest)):
                await news.wait()


def _parts(batch: EventBatch) -> Iterator[list[Entry]]:
    """The records, in parts that are rendered at once."""
    return map(entries, batches(batch.data, PART_BYTES))


def _error_of(response: StoredResponse) -> APIError:
    """Why a response failed without having written that."""
    error = orjson.loads(response.body).get("error") or {}
    return APIError(500, error.get("message") or "The response has no end.")
