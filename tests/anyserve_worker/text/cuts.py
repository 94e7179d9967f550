"""Ways to split bytes into tokens."""

from collections.abc import Iterator


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yields the data whole, cut into two and three in every way, and byte by byte with empty pieces between."""
    yield [data]
    for i in range(len(data) + 1):
        yield [data[:i], data[i:]]
        for j in range(i, len(data) + 1):
            yield [data[:i], data[i:j], data[j:]]
    yield [data[i : i + 1] for i in range(len(data))]
    yield [piece for i in range(len(data)) for piece in (b"", data[i : i + 1], b"")]
