"""Frames between worker and process: any cut of the stream, and bytes that are no frames."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyserve_worker.pipelines.core.frames import MAX_FRAME, BrokenFrame, Frames, encode
from tests.examples import examples

PARTS = st.lists(st.binary(max_size=50), max_size=4)


@settings(max_examples=examples(50))
@given(st.lists(PARTS, min_size=1, max_size=4), st.data())
def test_frames_are_read_however_the_stream_is_cut(frames: list[list[bytes]], data: st.DataObject) -> None:
    stream = b"".join(encode("events", parts, number=n) for n, parts in enumerate(frames))
    cut = data.draw(st.integers(0, len(stream)))
    reader = Frames()
    read = [*reader.push(stream[:cut]), *reader.push(stream[cut:])]
    assert [(frame.header["kind"], frame.header["number"]) for frame in read] == [
        ("events", n) for n in range(len(frames))
    ]
    assert [list(frame.parts) for frame in read] == frames


@pytest.mark.parametrize(
    "stream",
    [
        (MAX_FRAME + 1).to_bytes(4, "little") + bytes(4),
        (4).to_bytes(4, "little") + (1).to_bytes(4, "little"),
        (5).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"{",
        (6).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"{}",
        (16).to_bytes(4, "little") + (12).to_bytes(4, "little") + b'{"parts":[1]}'[:12],
        (17).to_bytes(4, "little") + (13).to_bytes(4, "little") + b'{"parts":[1]}',
    ],
)
def test_bytes_that_are_no_frame_are_an_error(stream: bytes) -> None:
    with pytest.raises(BrokenFrame):
        list(Frames().push(stream))


def test_a_frame_that_is_too_large_is_not_written() -> None:
    with pytest.raises(BrokenFrame):
        encode("request", [bytes(MAX_FRAME)])
