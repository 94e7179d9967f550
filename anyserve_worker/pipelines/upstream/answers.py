"""Reads the events of an answer from a response."""

from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from anyserve_worker.pipelines.core.errors import TimedOut, UpstreamFailed
from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.upstream.client import Response
from anyserve_worker.pipelines.upstream.framing import BrokenStream

TAIL_SECONDS = 2.0
"""Time for counts and the end mark to arrive after all choices are finished."""


class AnswerReader(Protocol):
    def push(self, data: bytes) -> Iterable[Event]:
        """Yields the events of the next bytes. Raises PipelineError and BrokenStream."""

    def finish(self) -> Iterable[Event]:
        """Yields the last events: counts, and the end of each choice. Raises PipelineError and BrokenStream."""

    @property
    def is_finished(self) -> bool:
        """Whether all choices are finished; counts may follow."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing follows."""


async def read_events(response: Response, reader: AnswerReader) -> AsyncGenerator[Event, None]:
    """Raises PipelineError. A stream that ends early is an error, unless all choices are finished."""
    try:
        while not reader.is_complete:
            try:
                piece = await response.read(TAIL_SECONDS if reader.is_finished else None)
            except (TimedOut, UpstreamFailed):
                if not reader.is_finished:
                    raise
                break
            if not piece:
                break
            for event in reader.push(piece):
                yield event
        for event in reader.finish():
            yield event
    except BrokenStream as error:
        raise UpstreamFailed(f"The upstream's answer can't be read: {error}.") from None
    if reader.is_complete:
        await response.drain()
