"""Runs a line of a batch."""

from openai_server.access.keys import Caller
from openai_server.api.batches.checking import body_of
from openai_server.api.batches.line_output import answered, line_key
from openai_server.api.batches.results import Results
from openai_server.api.lines import Lines
from openai_server.core.store_errors import StoreAway
from openai_server.jobs.runner import NotNow
from openai_server.store.batch_records import LineResult, LineRun
from openai_server.store.file_store import FileStore

RETRY_SECONDS = 0.5
"""Time until a line is tried again whose input could not be read."""


class LineWork:
    """A `jobs.runner.Work`."""

    def __init__(self, files: FileStore, lines: Lines, results: Results) -> None:
        self._files, self._lines, self._results = files, lines, results

    async def __call__(self, run: LineRun) -> None:
        """Raises NotNow, and Superseded."""
        body = body_of(await self._read(run))
        key = line_key(run.batch_id, run.line.number)
        answer = await self._lines.answer(run.endpoint, body, Caller(run.owner, ""), key=key)
        data = answered(run.batch_id, run.line.number, run.line.custom_id, answer)
        is_error = not 200 <= answer.status < 300
        await self._results.add(LineResult(run=run, is_error=is_error, data=data, usage=answer.usage))

    async def _read(self, run: LineRun) -> bytes:
        """The line of the input file. Raises NotNow."""
        line = run.line
        try:
            return b"".join(
                [piece async for piece in self._files.content(run.input, line.start, line.start + line.n_bytes)]
            )
        except StoreAway as error:
            raise NotNow(RETRY_SECONDS, is_owners=True) from error
