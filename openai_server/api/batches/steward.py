"""Takes care of batches before and after their lines run: validates them, and writes their output files."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

import msgspec

from openai_server.api.batches.check_process import CheckFailed, checking
from openai_server.api.batches.checking import MAX_BYTES, LineError
from openai_server.api.batches.line_output import unanswered
from openai_server.api.files.request import BATCH_SECONDS, FILE_PREFIX
from openai_server.core.errors import APIError
from openai_server.core.file_errors import FileNotFound
from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.store.batch_records import EndedLine, StoredBatch
from openai_server.store.batch_store import BatchStore
from openai_server.store.file_records import NewFile
from openai_server.store.file_store import FileStore
from openai_server.store.ids import new_id
from openai_server.telemetry.store_metrics import StoreMetrics

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Time between two searches for batches, unless `wake` is called."""
RETRY_SECONDS = 0.5
"""Time until a transaction is tried again that the store didn't answer."""
REST_SECONDS = 5.0
"""Time until a batch is tried again whose files could not be read or written."""
MAX_BATCHES = 2
"""Batches that this process takes care of at the same time."""
PURPOSE = "batch_output"
UNCHECKABLE = LineError(
    "invalid_file", "The input file takes too much time or memory to check, for this server's limits.", None, None
)
LATE = LineError("batch_expired", "The input file could not be read before the completion window expired.", None, None)
MISSING = LineError("file_not_found", "The input file doesn't exist any more.", None, "input_file_id")
TOO_LARGE = LineError("file_too_large", f"The input file has more than {MAX_BYTES} bytes.", None, "input_file_id")


class Steward:
    """`max_line_bytes` is the limit of one line. `begun` is called when the lines of a batch can be claimed. `clock`
    gives Unix seconds."""

    def __init__(
        self,
        batches: BatchStore,
        files: FileStore,
        *,
        max_line_bytes: int,
        begun: Callable[[], None],
        metrics: StoreMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._batches, self._files = batches, files
        self._max_line_bytes = max_line_bytes
        self._begun = begun
        self._metrics = metrics
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By the ids of the batches that this process takes care of."""
        self._resting: dict[str, float] = {}
        """Times until which batches are not tried again, by id and the monotonic clock."""
        self._wake = asyncio.Event()
        self._is_draining = False

    def wake(self) -> None:
        """Looks for batches now."""
        self._wake.set()

    def drain(self) -> None:
        """Takes no further batches."""
        self._is_draining = True

    async def run(self) -> None:
        """Takes care of batches until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    while await self._take():
                        pass
                except StoreAway:
                    log.debug("the store is away")
                except Exception:
                    log.exception("batches: a step failed")
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._wake.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stops what this process does. Another one goes on with it."""
        self._is_draining = True
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _take(self) -> bool:
        """Whether there may be more batches. Raises StoreAway."""
        if self._is_draining or len(self._tasks) >= MAX_BATCHES:
            return False
        now = time.monotonic()
        self._resting = {id: until for id, until in self._resting.items() if until > now}
        batch = await self._batches.take([*self._tasks, *self._resting])
        if batch is None or self._is_draining:
            return False
        task = self._tasks[batch.id] = asyncio.create_task(self._care(batch), name=batch.id)
        task.add_done_callback(self._forget)
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task.get_name(), None)
        self.wake()

    async def _care(self, batch: StoredBatch) -> None:
        """Takes the batch to the next status."""
        try:
            if batch.status == "validating":
                await self._validate(batch)
            else:
                await self._finish(batch)
        except Superseded:
            log.debug("%s was cancelled, or taken from this process", batch.id)
        except (StoreAway, APIError, CheckFailed) as error:
            log.warning("%s is tried again: %r", batch.id, error)
            self._rest(batch)
        except Exception:
            log.exception("%s is tried again", batch.id)
            self._rest(batch)

    def _rest(self, batch: StoredBatch) -> None:
        self._resting[batch.id] = time.monotonic() + REST_SECONDS

    # ---- Validation

    async def _validate(self, batch: StoredBatch) -> None:
        """Raises Superseded, StoreAway and CheckFailed."""
        while await self._batches.clear_lines(batch):  # those that a former process has added
            pass
        is_late = batch.deadline < self._clock()
        if errors := [LATE] if is_late else await self._begin(batch):
            await self._batches.fail(batch, msgspec.json.encode(errors))
            self._metrics.batch_ended("failed")
            await self._delete_lines(batch)

    async def _begin(self, batch: StoredBatch) -> Sequence[LineError]:
        """Adds the lines and makes the batch `in_progress`, unless there are errors."""
        try:
            file = await self._files.get(batch.owner, batch.input_file_id)
        except FileNotFound:
            return [MISSING]
        if file.n_bytes > MAX_BYTES:
            return [TOO_LARGE]
        errors = list[LineError]()
        pieces = self._files.content(file.parts)
        try:
            async with checking(pieces, batch.endpoint, max_line_bytes=self._max_line_bytes) as parts:
                async for part in parts:
                    errors += part.errors
                    if part.lines and not errors:
                        await self._batches.add_lines(batch, part.lines)
        except CheckFailed as error:
            if not error.is_files:
                raise
            return [UNCHECKABLE]
        if not errors:
            await self._batches.begin(batch, n_lines=part.n_lines, model=part.model)
            self._begun()
        return errors

    # ---- The output files

    async def _finish(self, batch: StoredBatch) -> None:
        """Raises Superseded and APIError."""
        output = await self._file(batch, is_error=False)
        parts = [] if output is None else [*output.parts]
        try:
            errors = await self._file(batch, is_error=True)
        except BaseException:
            await self._files.discard(parts)  # a full disk is tried again, and should not become fuller
            raise
        parts += [] if errors is None else errors.parts
        is_uncertain = False
        while True:
            try:
                final = await self._batches.finish(batch, output, errors)
                break
            except StoreAway:
                is_uncertain = True
                await asyncio.sleep(RETRY_SECONDS)
            except Superseded:
                if not is_uncertain:
                    await self._files.discard(parts)
                raise
        self._metrics.batch_ended(final.status)
        await self._delete_lines(batch)

    async def _file(self, batch: StoredBatch, *, is_error: bool) -> NewFile | None:
        """The output file or the error file, whose blob is written; None if it would be empty. Raises StorageFull."""
        first = await self._lines(batch, -1, is_error=is_error)
        if not first:
            return None
        part = await self._files.receive(self._content(batch, first, is_error=is_error), max_bytes=1 << 62)
        now = self._clock()
        return NewFile(
            id=new_id(FILE_PREFIX, now),
            owner=batch.owner,
            created_at=now,
            expires_at=now + (batch.output_seconds or BATCH_SECONDS),
            filename=f"{batch.id}_{'error' if is_error else 'output'}.jsonl",
            purpose=PURPOSE,
            parts=[part],
        )

    async def _content(self, batch: StoredBatch, lines: Sequence[EndedLine], *, is_error: bool) -> AsyncIterator[bytes]:
        while lines:
            data = [line.data or unanswered(batch.id, line, batch.ending) for line in lines]
            yield b"\n".join([*data, b""])
            lines = await self._lines(batch, lines[-1].number, is_error=is_error)

    async def _lines(self, batch: StoredBatch, after: int, *, is_error: bool) -> Sequence[EndedLine]:
        while True:
            try:
                return await self._batches.ended_lines(batch, after, is_error=is_error)
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)

    async def _delete_lines(self, batch: StoredBatch) -> None:
        """Leaves to the sweeper what can't be deleted now."""
        with suppress(StoreAway):
            while await self._batches.delete_lines(batch):
                pass
