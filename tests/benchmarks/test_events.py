from benchmarks.events import EventReader

STREAM = b': ping\n\ndata: {"a": "\xc3\xa4"}\n\nevent: x\r\ndata:one\r\ndata: two\r\n\r\ndata: [DONE]\n\n'
EVENTS = [b'{"a": "\xc3\xa4"}', b"one\ntwo", b"[DONE]"]


def test_whole() -> None:
    assert EventReader().feed(STREAM) == EVENTS


def test_split_anywhere() -> None:
    for place in range(len(STREAM) + 1):
        reader = EventReader()
        assert reader.feed(STREAM[:place]) + reader.feed(STREAM[place:]) == EVENTS, place


def test_byte_by_byte() -> None:
    reader = EventReader()
    assert [event for i in range(len(STREAM)) for event in reader.feed(STREAM[i : i + 1])] == EVENTS


def test_an_incomplete_event_is_not_returned() -> None:
    assert EventReader().feed(b"data: 1\n") == []
