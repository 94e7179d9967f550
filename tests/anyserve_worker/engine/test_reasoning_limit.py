"""The limit of reasoning in whole answers: what ends a choice, and what is counted."""

from typing import Any

import pytest

from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.guide import Guide
from protos import contract
from tests.anyserve_worker.engine.test_engine import answer, collect, engine_on, new_request, texts
from tests.anyserve_worker.fakes import FakeMemory, FakeRunner

SCRIPT = {"q": b"so it goesYes", "open": b"<t>so it goes</t>Yes", "plain": b"Yes", "qé": "né".encode()}
ANSWER = ("so it</t> goesYes", "stop")
LIMITED: dict[str, Any] = {"mark_end": ("</t>", "[end]"), "max_marked_tokens": 5}


async def only(runner: FakeRunner, prompt: str, **fields: Any) -> Delta:
    async with engine_on(runner) as engine:
        (choice,) = await answer(engine, new_request(prompt, **LIMITED | fields))
    return choice


@pytest.mark.parametrize(
    ("prompt", "fields", "text", "completion", "marked"),
    [
        ("q", {}, "so it</t> goesYes", 18, 9),
        ("q", {"max_marked_tokens": 0}, "</t>so it goesYes", 18, 4),
        ("q", {"max_marked_tokens": 50}, "so it goesYes", 14, 14),
        ("open", {"mark_begin": "<t>"}, "<t>so it</t> goes</t>Yes", 25, 12),
        ("open", {"mark_begin": "<t>", "max_marked_tokens": 14}, "<t>so it goes</t>Yes", 21, 17),
        ("plain", {"mark_begin": "<t>", "max_marked_tokens": 0}, "Yes", 4, 0),
        ("qé", {"max_marked_tokens": 2}, "né</t>", 8, 7),
    ],
)
async def test_the_written_end_mark_is_part_of_the_text_and_of_the_counts(
    prompt: str, fields: dict[str, Any], text: str, completion: int, marked: int
) -> None:
    choice = await only(FakeRunner(SCRIPT), prompt, **fields)
    assert (choice.text, choice.finish_reason) == (text, "stop")
    assert (choice.completion_tokens, choice.marked_tokens) == (completion, marked)


async def test_each_token_of_the_end_mark_is_a_step_of_its_own() -> None:
    async with engine_on(FakeRunner(SCRIPT)) as engine:
        deltas = await collect(await engine.submit(new_request("q", **LIMITED)))
    assert [delta.text for delta in deltas] == [*"so it</t> goesYes", ""]


@pytest.mark.parametrize("max_tokens", [4, 5, 7, 9])
async def test_max_tokens_may_be_reached_first(max_tokens: int) -> None:
    choice = await only(FakeRunner(SCRIPT), "q", max_tokens=max_tokens)
    assert texts([choice]) == [("so it</t> goesYes"[:max_tokens], "length")]
    assert choice.completion_tokens == choice.marked_tokens == max_tokens


async def test_a_stop_string_in_the_end_mark_ends_the_choice() -> None:
    choice = await only(FakeRunner(SCRIPT), "q", stop=("t</t",))
    assert (*texts([choice]), choice.completion_tokens, choice.marked_tokens) == (("so i", "stop"), 8, 8)


async def test_each_choice_has_its_own_limit() -> None:
    async with engine_on(FakeRunner(SCRIPT)) as engine:
        choices = merge(await collect(await engine.submit(new_request("q", n=3, **LIMITED))))
    assert texts(choices) == [ANSWER] * 3
    assert [choice.marked_tokens for choice in choices] == [9] * 3


@pytest.mark.parametrize("prompt_lookup", [0, 4])
async def test_drafts_do_not_change_the_text(prompt_lookup: int) -> None:
    runner = FakeRunner({"abcabc": b"abcabcabcabcabc"}, prompt_lookup=prompt_lookup)
    choice = await only(runner, "abcabc", max_marked_tokens=7)
    assert (choice.text, choice.marked_tokens) == ("abcabca</t>bcabcabc", 11)


async def test_a_preempted_choice_keeps_its_limit() -> None:
    runner = FakeRunner({**SCRIPT, "w" * 20: b"x" * 30}, memory=FakeMemory(52))
    async with engine_on(runner) as engine:
        other = await engine.submit(new_request("w" * 20))
        (choice,) = await answer(engine, new_request("q", **LIMITED))
        await collect(other)
        assert engine.n_preempted
    assert texts([choice]) == [ANSWER]


async def test_the_end_mark_advances_a_guide() -> None:
    choice = await only(FakeRunner(SCRIPT), "q", guide=Guide(contract.REGEX, "x" * 9))  # ends after 9 tokens
    assert texts([choice]) == [("so it</t>", "stop")]
    refusing = await only(FakeRunner(SCRIPT), "q", guide=Guide(contract.REGEX, "x" * 8))  # no room for the mark
    assert texts([refusing]) == [("so it go", "stop")]
