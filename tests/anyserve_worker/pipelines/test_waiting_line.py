"""The order in which waiting requests get slots."""

from anyserve_worker.pipelines.waiting_line import WaitingLine


def line_of(*requests: tuple[str, str]) -> WaitingLine[str]:
    line: WaitingLine[str] = WaitingLine()
    for request, caller in requests:
        line.add(request, caller)
    return line


def test_requests_of_a_caller_keep_their_order() -> None:
    line = line_of(("1", "a"), ("2", "a"), ("3", "a"))
    line.remove("2")
    line.remove("unknown")
    assert (len(line), line.pop(), line.pop(), len(line)) == (2, "1", "3", 0)


def test_the_caller_with_the_fewest_running_requests_is_next() -> None:
    line = line_of(("a1", "a"), ("a2", "a"), ("b1", "b"))
    line.begin("a")
    assert line.pop() == "b1"
    line.begin("b")
    line.end("a")
    assert line.pop() == "a1"


def test_all_waiting_requests_can_be_removed() -> None:
    line = line_of(("1", "a"), ("2", "b"))
    assert line.clear() == ["1", "2"]
    assert not len(line)
