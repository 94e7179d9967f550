import pytest

from openai_server.core.file_errors import FileQuotaExceeded
from openai_server.store.arriving import ArrivingFiles


def test_the_file_that_exceeds_the_limit_makes_room_for_the_others() -> None:
    files = ArrivingFiles(10)
    with files.counting("a", 2) as first, files.counting("b", 0) as other:
        first(5)
        other(10)
        with files.counting("a", 2) as second:
            second(3)
            with pytest.raises(FileQuotaExceeded, match="10 bytes"):
                second(1)
            first(3)
        with pytest.raises(FileQuotaExceeded):
            first(1)
    assert not files._by_owner


def test_a_file_that_has_arrived_counts_while_others_arrive() -> None:
    files = ArrivingFiles(10)
    with files.counting("a", 0) as first:
        with files.counting("a", 0) as second:
            second(6)
        with pytest.raises(FileQuotaExceeded):
            first(5)
        with files.counting("a", 3) as third:
            third(7)


def test_without_a_limit() -> None:
    with ArrivingFiles(0).counting("a", 1 << 40) as count:
        count(1 << 40)
