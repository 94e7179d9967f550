from typing import Any

import pytest

from openai_server.core.usage import Usage
from openai_server.telemetry import request_context as current
from openai_server.telemetry.record import MAX_PATH_LENGTH, Record, begin, request_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scope(path: bytes = b"/x", **headers: str) -> dict[str, Any]:
    told = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"method": "GET", "raw_path": path, "headers": told, "client": ("10.0.0.1", 5)}


def begun(path: bytes = b"/x", **headers: str) -> Record:
    return begin(scope(path, **headers), "other", lambda _, __: None)


@pytest.mark.parametrize("id", ["a", "3f2a-77", "~!{}", "x" * 128])
def test_a_sane_id_of_the_client_is_taken(id: str) -> None:
    assert request_id(id) == id
    assert begun(x_request_id=id).id == id


@pytest.mark.parametrize("id", ["", " ", "a b", "a\nb", "a\x7f", "ä", "x" * 129, "a\n"])
def test_any_other_gets_a_new_one(id: str) -> None:
    made = {request_id(id) for _ in range(2)}
    assert len(made) == 2
    assert all(name.startswith("req_") for name in made)


def test_what_is_no_trace_context_is_left_out() -> None:
    for parent, state, passed_on in [
        (PARENT, "a=1", "a=1"),
        (PARENT, "a", ""),
        (PARENT + "0", "a=1", ""),
        ("", "a=1", ""),
    ]:
        record = begun(traceparent=parent, tracestate=state)
        assert record.traceparent == (PARENT if parent == PARENT else "")
        assert record.tracestate == passed_on


def test_a_tracestate_of_several_headers_is_one_list() -> None:
    given = scope(traceparent=PARENT, tracestate="a=1")
    given["headers"].append((b"tracestate", b"b=2"))
    record = begin(given, "other", lambda _, __: None)
    assert record.headers[1:] == [("traceparent", PARENT), ("tracestate", "a=1,b=2")]


def test_the_current_record_is_that_of_the_request() -> None:
    record = begun(x_request_id="one")
    assert current.request_id() == "one"
    assert dict(record.headers) == {"x-request-id": "one"}
    assert begun(x_request_id="two", traceparent=PARENT).headers == [("x-request-id", "two"), ("traceparent", PARENT)]
    assert current.request_id() == "two"


def test_a_path_is_one_word_of_bounded_length() -> None:
    assert begun(b"/a%20b?\xff\n\x1b[0m").path == "/a%20b?\\xff??[0m"
    assert len(begun(b"/" + b"x" * 9999).path) == MAX_PATH_LENGTH


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_times_of_a_stream() -> None:
    clock, waiting = Clock(), list[int]()
    record = Record(clock=clock, on_waiting=lambda _, n: waiting.append(n))
    record.begin_stream(2)
    record.begin_stream(2)  # tried again
    assert waiting == [1]
    clock.now += 2
    record.take_first_token()
    assert waiting == [1, -1]
    clock.now += 4
    record.usage = Usage(3, 10, 0)
    record.end()
    assert waiting == [1, -1]
    assert (record.time_to_first_token, record.duration) == (2, 6)
    assert record.time_per_output_token == 1  # five tokens a choice


def test_a_stream_without_a_token_waits_until_its_end() -> None:
    waiting: list[int] = []
    record = Record(on_waiting=lambda _, n: waiting.append(n))
    record.begin_stream(1)
    record.end()
    assert waiting == [1, -1]
    assert record.time_to_first_token is None
    assert record.time_per_output_token is None


def test_a_stream_that_was_cut_off_has_the_tokens_that_came() -> None:
    record = Record()
    assert record.completion_tokens is None
    record.cut_off([], 0)
    assert record.completion_tokens is None, "it failed before the first, and has no count"
    record.cut_off([], 4)
    assert record.completion_tokens == 4
    record.cut_off([Usage(3, 10, 0), None], 4)  # pieces may have become one on the way
    assert record.completion_tokens == 10
    record.usage = Usage(3, 12, 0)  # it was tried again
    assert record.completion_tokens == 12


def test_one_token_has_no_gap() -> None:
    record = Record()
    record.begin_stream(1)
    record.take_first_token()
    record.usage = Usage(3, 1, 0)
    record.end()
    assert record.time_per_output_token is None


def test_what_a_whole_answer_has() -> None:
    record = Record()
    record.take_answer(Usage(5, 7, 2), 2, ["stop"])
    assert (record.usage, record.finish_reasons, record.choices) == (Usage(5, 7, 2), ["stop"], 2)
    record.take_answer(Usage(4, 0, None))
    assert (record.usage, record.finish_reasons, record.choices) == (Usage(4, 0, None), (), 1)


def test_a_stream_has_the_reasons_that_came_meanwhile() -> None:
    record, reasons = Record(), list[str]()
    record.begin_stream(2, reasons)
    reasons.append("stop")
    assert (record.choices, record.finish_reasons) == (2, ["stop"])
