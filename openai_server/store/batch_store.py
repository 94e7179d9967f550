"""The batches of the store, as the rest of the sidecar uses them.

A batch is validated by one process, its lines are run by all that share the store, and one process writes the output
files when no line is left. Each of these is under a process' lease, so that another process goes on if it ends.
"""

from collections.abc import Collection, Sequence
from functools import partial

from openai_server.store.batch_records import (
    BatchesPage,
    BatchLine,
    EndedLine,
    LineResult,
    LineRun,
    NewBatch,
    StoredBatch,
)
from openai_server.store.file_records import FilesRequest, NewFile
from openai_server.store.link import Link
from openai_server.store.records import Recovered


class BatchStore:
    """The methods raise StoreAway. Those with an `owner` treat what belongs to another owner as missing. All that write
    may be repeated when the store didn't answer."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, batch: NewBatch) -> StoredBatch:
        """Adds a batch, `validating`. Raises FileNotFound (param `input_file_id`), InvalidRequest for a file with
        another purpose, and BatchQuotaExceeded."""
        return await self._link.write("create_batch", self._link.parts.batches.create, batch)

    async def get(self, owner: str, id: str) -> StoredBatch:
        """Raises BatchNotFound."""
        return await self._link.read("batch", self._link.parts.batches.get, owner, id)

    async def list(self, owner: str, page: FilesRequest) -> BatchesPage:
        return await self._link.read("batches", self._link.parts.batches.list, owner, page)

    async def cancel(self, owner: str, id: str) -> StoredBatch:
        """Raises BatchNotFound, and InvalidRequest for one that is being finalized or has ended otherwise."""
        return await self._link.write("cancel_batch", self._link.parts.batches.cancel, owner, id)

    # ---- The process that validates a batch, or writes its output files

    async def take(self, busy: Collection[str] = ()) -> StoredBatch | None:
        """Takes the oldest batch that is `validating`, `cancelling` or `finalizing`, under this process' lease. None:
        there is none, besides `busy`. Batches whose deadline has passed are `finalizing` from here on."""
        parts = self._link.parts
        has_overdue, has_more = await self._link.read("take_batch", parts.batches.work, busy)
        if has_overdue:
            await self._link.write("expire_batches", parts.batches.expire)
        elif not has_more:
            return None
        return await self._link.write("take_batch", parts.batches.take, busy)

    async def clear_lines(self, batch: StoredBatch) -> bool:
        """Deletes some lines that an earlier validation has added. Returns whether there may be more. Raises Superseded
        if the batch was cancelled or taken over, as the four below do."""
        return await self._link.write("clear_lines", self._link.parts.batch_lines.clear, batch)

    async def add_lines(self, batch: StoredBatch, lines: Sequence[BatchLine]) -> None:
        await self._link.write("add_lines", self._link.parts.batch_lines.add, batch, lines)

    async def begin(self, batch: StoredBatch, *, n_lines: int, model: str | None) -> None:
        """Makes it `in_progress`: its lines can be claimed from here on."""
        begin = partial(self._link.parts.batches.begin, n_lines=n_lines, model=model)
        await self._link.write("begin_batch", begin, batch)

    async def fail(self, batch: StoredBatch, errors: bytes) -> None:
        await self._link.write("fail_batch", self._link.parts.batches.fail, batch, errors)

    async def finish(self, batch: StoredBatch, output: NewFile | None, errors: NewFile | None) -> StoredBatch:
        """Adds the output files, whatever the owner's quota is, and ends the batch."""
        return await self._link.write("finish_batch", self._link.parts.batches.finish, batch, output, errors)

    async def ended_lines(self, batch: StoredBatch, after: int, *, is_error: bool) -> Sequence[EndedLine]:
        """The next lines of the output file, or of the error file, after the one with this number (-1: from the first
        one on), none at the end. They don't change any more."""
        ended = partial(self._link.parts.batch_lines.ended, is_error=is_error)
        return await self._link.read("ended_lines", ended, batch.id, after)

    async def delete_lines(self, batch: StoredBatch) -> bool:
        """Deletes some lines of a batch that has ended. Returns whether there may be more."""
        return await self._link.write("delete_lines", self._link.parts.delete_lines, batch.id)

    # ---- Lines

    async def claim(self, n: int, resting: Collection[str] = ()) -> Sequence[LineRun]:
        """Takes up to `n` lines of batches in progress, for `jobs.runner`. The owner with the fewest running lines is
        first, with its oldest batch; those in `resting` get none."""
        lines = self._link.parts.batch_lines
        if not await self._link.read("claim_lines", lines.has_pending):
            return []
        return await self._link.write("claim_lines", lines.claim, n, resting)

    async def beat(self, ids: Sequence[str]) -> Sequence[str]:
        """Renews this process' lease. Returns those of these lines that are no longer its own, or whose batch is no
        longer in progress."""
        return await self._link.write("beat_lines", self._link.parts.batch_lines.beat, ids)

    async def add_results(self, results: Sequence[LineResult]) -> Collection[str]:
        """Ends the lines, each of them once. Returns the ids of those that are no longer this process' own, or have
        ended by an earlier call: they are left out."""
        return await self._link.write("add_results", self._link.parts.batch_lines.add_results, results)

    async def requeue(self, run: LineRun) -> None:
        """Gives a line back that has not begun. Raises Superseded."""
        await self._link.write("requeue_line", self._link.parts.batch_lines.requeue, run)

    async def abandon(self, run: LineRun) -> None:
        """Gives a line back that ended without a result. Raises Superseded."""
        await self._link.write("abandon_line", self._link.parts.batch_lines.abandon, run)

    async def recover(self, running: Collection[str] = ()) -> Recovered:
        """Takes the lines of processes whose lease has expired, and those of this one that it doesn't work on. A line
        is pending again, up to MAX_LINE_ATTEMPTS times; then it has failed."""
        lines = self._link.parts.batch_lines
        own, has_orphans = await self._link.read("recover_lines", lines.recoverable)
        strays = set(own) - set(running)
        if not strays and not has_orphans:
            return Recovered([], [])
        return await self._link.write("recover_lines", lines.recover, strays)

    async def end_runner(self) -> Recovered:
        """Gives back what this process has: its lines, and the batches that it takes care of."""
        return await self._link.write("end_runner", self._link.parts.batch_lines.end_runner)
