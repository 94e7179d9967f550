"""What decoding a body may cost, from a look at its bytes. PURE.

Measured on a processor of 2.6 GHz: 16 MiB of ASCII text take orjson 15 ms, with escapes or other scripts up to 45 ms;
8192 values take up to 5 ms with their validation, a million takes half a second.
"""

STRUCTURE = (b",", b"[", b"{")
"""Each JSON value but the first one has one of these before it."""
VALUE_BYTES = 64
"""Memory of a decoded value, roughly: a list of one number takes 64 bytes, an object of one member 184."""

UNCOUNTED_BYTES = 16 << 10
"""A body of at most this size is not even counted: whatever it holds, it is decoded in about 2 ms."""
SMALL_VALUES = 1024
SMALL_BYTES = 64 << 10
"""A body within both is decoded at once: that takes less than 0.5 ms."""
INLINE_VALUES = 8192
CLOSE_LOOK_BYTES = 1 << 20
"""A larger body is not searched for strings: that would take as long as decoding it."""
INLINE_BYTES = 4 << 20
"""A body within both is decoded in the event loop, one such body between two looks at the network."""

_SAMPLE = 256
"""Bytes that are looked at to tell numbers from text."""


def structure(part: bytes | bytearray) -> int:
    """Structural bytes. Those inside strings count too, since telling them apart takes ten times as long."""
    return part.count(b",") + part.count(b"[") + part.count(b"{")


def is_small(body: bytes | bytearray, n_values: int) -> bool:
    return n_values <= SMALL_VALUES and len(body) <= SMALL_BYTES


def fits_inline(body: bytes | bytearray, n_values: int) -> bool:
    """Whether decoding holds the interpreter for less than some 20 ms. `n_values` is what `structure` counted."""
    if n_values > INLINE_VALUES and (len(body) > CLOSE_LOOK_BYTES or values_at_least(body, INLINE_VALUES + 1)):
        return False
    return len(body) <= INLINE_BYTES or _is_plain(body)


def values_at_least(body: bytes | bytearray, n: int) -> bool:
    """Whether there are `n` structural bytes outside strings. True without a closer look where that would be slow."""
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 4 * n:
        return True
    return structure(b"".join(text.split(b'"')[::2])) >= n


def _is_plain(body: bytes | bytearray) -> bool:
    """Text that orjson copies as it stands, such as base64; long numbers take it half as long again."""
    sample = body[:: len(body) // _SAMPLE]
    n_digits = sum(map(sample.count, b"0123456789"))
    return 2 * n_digits < len(sample) and body.isascii() and body.count(b"\\") <= len(body) >> 10
