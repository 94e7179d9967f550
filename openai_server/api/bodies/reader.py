"""Receives a body, and decodes it to a validated request in the event loop or in a helper process."""

import asyncio
from typing import cast

from openai_server.access.caps import Caps
from openai_server.api.bodies.cost import INLINE_BYTES, fits_inline, is_small
from openai_server.api.bodies.frames import Limits
from openai_server.api.bodies.helpers import PROCESSOR_SECONDS, Helpers
from openai_server.api.bodies.parsers import Parse, R
from openai_server.api.bodies.receiving import receive
from openai_server.core.request_context import RequestContext
from openai_server.http.streaming import unless_gone

LARGE_INTERVAL = 1.0
"""Minimum seconds between two bodies above INLINE_BYTES that are decoded in the event loop. A single one, such as an
image, is answered sooner that way; many in a row would delay all other requests."""
_BASE_MEMORY = 256 << 20
"""Bytes of address space for a helper process without a body: its program, and a reserve."""
_MEMORY_PER_BODY_BYTE = 16
_MEMORY_PER_VALUE = 512
"""Bytes for an object, its keys and its validated form."""


class Bodies:
    """Reads bodies of up to `max_bytes` and `max_values`. Callers take turns at decoding bodies that are not small."""

    def __init__(self, caps: Caps, *, max_bytes: int, max_values: int) -> None:
        self._caps = caps
        self.max_bytes = max_bytes
        self._max_values = max_values
        memory = _BASE_MEMORY + _MEMORY_PER_BODY_BYTE * max_bytes + _MEMORY_PER_VALUE * max_values
        self._helpers = Helpers(Limits(caps, PROCESSOR_SECONDS, memory))
        self._next_large = 0.0
        """Time from which on another body above INLINE_BYTES may be decoded in the event loop, by the loop's clock."""
        self._turn = asyncio.Lock()
        """Held while decoding a body that takes milliseconds: one such body in each pass of the event loop."""

    async def read(self, parse: Parse[R], context: RequestContext) -> tuple[R, int]:
        """The validated request, and the size of its body in bytes.

        Raises APIError, ClientDisconnect, and ClientGone while a helper process works.
        """
        body, n_values = await receive(context, max_bytes=self.max_bytes, max_values=self._max_values)
        return await self._decoded(parse, body, n_values, context), len(body)

    async def _decoded(self, parse: Parse[R], body: bytearray, n_values: int, context: RequestContext) -> R:
        if is_small(body, n_values):
            return parse(cast(bytes, body), self._caps)  # orjson accepts a bytearray too
        return await self._decode_large(parse, body, n_values, context)

    async def _decode_large(self, parse: Parse[R], body: bytearray, n_values: int, context: RequestContext) -> R:
        async with self._turn:
            inline = fits_inline(body, n_values) and self._may_be_large(len(body))
            await asyncio.sleep(0)
            if inline:
                request = parse(cast(bytes, body), self._caps)
                await asyncio.sleep(0)
                return request
        return await unless_gone(context.scope, self._helpers.run(parse, body, context.access.caller_id))

    def _may_be_large(self, size: int) -> bool:
        """Whether a body of this size may be decoded in the event loop now: a large one only every LARGE_INTERVAL."""
        if size <= INLINE_BYTES:
            return True
        now = asyncio.get_running_loop().time()
        if now < self._next_large:
            return False
        self._next_large = now + LARGE_INTERVAL
        return True

    async def close(self) -> None:
        await self._helpers.close()
