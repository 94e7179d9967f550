"""Deliveries in a fake event loop and on a fake clock."""

import pytest

from openai_server.backends.delivery import BACKLOG_SECONDS, MAX_MESSAGES, READING_PASSES, Delivery


class Mailbox:
    def __init__(self) -> None:
        self.n_rows = 0
        self.deliveries: list[int] = []
        """Number of rows of each delivery."""

    def deliver(self) -> None:
        self.deliveries.append(self.n_rows)
        self.n_rows = 0


class Stream:
    def __init__(self) -> None:
        self.now = 0.0
        self.mailbox = Mailbox()
        self._callbacks: list[object] = []
        self.batches = Delivery(self._callbacks.append, lambda: self.now)

    def message(self) -> None:
        self.batches.note_arrival()
        self.mailbox.n_rows += 1
        self.batches.receivers[self.mailbox] = None
        self.batches.end_message()

    def end_pass(self) -> None:
        callbacks, self._callbacks[:] = list(self._callbacks), []
        for callback in callbacks:
            assert callable(callback)
            callback()


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_a_single_message_is_delivered_at_once(stream: Stream) -> None:
    for _ in range(3):
        stream.message()
        assert stream.mailbox.n_rows == 0
        stream.end_pass()
        stream.now += 2 * BACKLOG_SECONDS
    assert stream.mailbox.deliveries == [1, 1, 1]


@pytest.mark.parametrize("passes", [0, 1])
def test_messages_of_a_backlog_are_delivered_together(stream: Stream, passes: int) -> None:
    stream.message()
    for _ in range(passes):  # 0: arrives while the first message is delivered
        stream.end_pass()
        stream.now += BACKLOG_SECONDS / 2
    for _ in range(3):
        stream.message()
        stream.end_pass()
    assert stream.mailbox.deliveries == [1]
    for _ in range(READING_PASSES):
        stream.end_pass()
    assert stream.mailbox.deliveries == [1, 3]


def test_held_rows_are_delivered_after_a_few_passes_without_messages(stream: Stream) -> None:
    stream.message()
    stream.message()
    for _ in range(READING_PASSES):
        assert stream.mailbox.deliveries == [1]
        stream.end_pass()
    assert stream.mailbox.deliveries == [1, 1]


def test_an_endless_backlog_is_delivered_in_parts(stream: Stream) -> None:
    n = 5 * MAX_MESSAGES
    for _ in range(n):
        stream.message()
        stream.end_pass()
    for _ in range(READING_PASSES):
        stream.end_pass()
    assert sum(stream.mailbox.deliveries) == n
    assert max(stream.mailbox.deliveries) <= MAX_MESSAGES + READING_PASSES
    assert len(stream.mailbox.deliveries) >= n // (MAX_MESSAGES + READING_PASSES)


def test_each_receiver_gets_its_rows_once(stream: Stream) -> None:
    other = Mailbox()
    stream.message()
    stream.message()
    stream.batches.receivers[other] = None
    stream.batches.deliver()
    for _ in range(READING_PASSES + 1):
        stream.end_pass()
    assert stream.mailbox.deliveries == [1, 1]
    assert other.deliveries == [0]
