"""A streamed answer with the times of its tokens and the progress of its prompt. PURE."""

from collections.abc import Sequence

from openai_server.api.answer_stream import AnswerStream
from openai_server.core.rows import Row
from openai_server.core.usage import Usage


class ReportingStream(AnswerStream):
    """Writes what its source reports besides rows. A separate class, so that other streams don't look for it."""

    __slots__ = ()

    def take(self, rows: Sequence[Row]) -> bytes:
        data = b"".join(map(self._writer.progress, self.source.take_progress())) if self.source else b""
        if rows:
            self._report(None)
            data += super().take(rows)
        return data

    def end(self, usage: Usage | None) -> bytes:
        self._report(usage)
        return super().end(usage)

    def _report(self, usage: Usage | None) -> None:
        """Sets the times for the next events, but not for the bytes before the first one."""
        self._begin_once(usage)
        if self.source and (timings := self.source.timings):
            self._writer.set_timings(timings)
