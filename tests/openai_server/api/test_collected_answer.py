"""Whole answers that are collected from a stream."""

from openai_server.api.collected_answer import CollectedAnswer
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.tools.tagged import HERMES

CALL = b'<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def collected(n_choices: int = 1) -> CollectedAnswer:
    return CollectedAnswer(n_choices, AnswerFormat(lambda: HERMES.parser(()), lambda: "id", parallel=True))


def test_the_rows_of_each_choice_are_joined() -> None:
    answer = collected(2)
    token_a, token_b = TokenLogprob(b"a", -1.0, ()), TokenLogprob(b"b", -2.0, ())
    answer.take([(0, b"a\xc3", None, [token_a]), (1, b"x", "length", ())])
    answer.take([(0, b"\xa9b", "stop", [token_b])])
    first, second = answer.answer(Usage(1, 2, None), None).choices
    assert (first.index, first.text, first.finish_reason, first.logprobs) == (0, "a\u00e9b", "stop", [token_a, token_b])
    assert (second.index, second.text, second.finish_reason, second.logprobs) == (1, "x", "length", [])
    assert not answer.is_cut_off


def test_an_answer_is_cut_off_when_all_choices_have_ended() -> None:
    answer = collected(2)
    answer.take([(0, CALL, None, ())])
    answer.take([(0, CALL, None, ())])
    assert not answer.is_cut_off
    answer.take([(1, b"Hello", "stop", ()), (0, b"more", None, ())])
    assert answer.is_cut_off
    first, second = answer.answer(None, None).choices
    assert (first.text, first.finish_reason) == ((CALL * 2).decode(), None)
    assert (second.text, second.finish_reason) == ("Hello", "stop")
