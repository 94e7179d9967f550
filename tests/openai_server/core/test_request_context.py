from openai_server.core.request_context import RequestContext
from openai_server.core.usage import Usage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_times_of_a_stream_are_measured() -> None:
    clock, waiting = Clock(), list[int]()
    context = RequestContext(clock=clock, on_waiting=lambda _, n: waiting.append(n))
    context.begin_stream(2)
    context.begin_stream(2)  # a retry
    assert waiting == [1]
    clock.now += 2
    context.take_first_token()
    assert waiting == [1, -1]
    clock.now += 4
    context.usage = Usage(3, 10, 0)
    context.end()
    assert waiting == [1, -1]
    assert (context.time_to_first_token, context.duration) == (2, 6)
    assert context.time_per_output_token == 1  # five tokens for each choice


def test_a_stream_without_a_token_waits_for_its_whole_duration() -> None:
    waiting: list[int] = []
    context = RequestContext(on_waiting=lambda _, n: waiting.append(n))
    context.begin_stream(1)
    context.end()
    assert waiting == [1, -1]
    assert context.time_to_first_token is None
    assert context.time_per_output_token is None


def test_an_aborted_stream_counts_the_tokens_that_arrived() -> None:
    context = RequestContext()
    assert context.completion_tokens is None
    context.cut_off([], 0)
    assert context.completion_tokens is None, "it failed before the first, and has no count"
    context.cut_off([], 4)
    assert context.completion_tokens == 4
    context.cut_off([Usage(3, 10, 0), None], 4)  # rows may have been merged
    assert context.completion_tokens == 10
    context.usage = Usage(3, 12, 0)  # a retry
    assert context.completion_tokens == 12


def test_the_time_per_token_is_none_for_one_token() -> None:
    context = RequestContext()
    context.begin_stream(1)
    context.take_first_token()
    context.usage = Usage(3, 1, 0)
    context.end()
    assert context.time_per_output_token is None


def test_a_whole_answer_sets_usage_reasons_and_choices() -> None:
    context = RequestContext()
    context.take_answer(Usage(5, 7, 2), 2, ["stop"])
    assert (context.usage, context.finish_reasons, context.choices) == (Usage(5, 7, 2), ["stop"], 2)
    context.take_answer(Usage(4, 0, None))
    assert (context.usage, context.finish_reasons, context.choices) == (Usage(4, 0, None), (), 1)


def test_the_finish_reasons_of_a_stream_are_updated_while_it_runs() -> None:
    context, reasons = RequestContext(), list[str]()
    context.begin_stream(2, reasons)
    reasons.append("stop")
    assert (context.choices, context.finish_reasons) == (2, ["stop"])
