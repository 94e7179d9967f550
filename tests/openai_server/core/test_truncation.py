"""A conversation that doesn't fit loses its oldest messages, and nothing that belongs together is separated."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.core.context_length import Room
from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.core.truncation import MAX_ATTEMPTS, kept

SYSTEM, DEVELOPER = SystemMessage("s" * 84), DeveloperMessage("d" * 84)
UNKNOWN = Room(None)


def user(n: int) -> UserMessage:
    """Counts as 100 characters, like each of the messages below."""
    return UserMessage(f"{n:084}")


def answer(n: int) -> AssistantMessage:
    return AssistantMessage(f"{n:084}")


def call(*ids: str) -> AssistantMessage:
    return AssistantMessage(tool_calls=[ToolCall(id, FunctionCall("f", "{" + " " * 82 + "}")) for id in ids])


def result(id: str) -> ToolMessage:
    return ToolMessage("r" * 84, id)


def room(prompt: int, context: int, output: int | None = 0) -> Room:
    return Room(context, output, str(prompt))


def shortened(chat: Sequence[Message], room: Room, attempt: int) -> list[Message] | None:
    positions = kept(chat, room, attempt)
    return None if positions is None else [chat[i] for i in positions]


def test_the_oldest_messages_are_dropped_until_the_rest_fits() -> None:
    chat: list[Message] = [SYSTEM, user(1), answer(2), user(3), answer(4), user(5)]
    assert shortened(chat, room(600, 500), 1) == [SYSTEM, user(3), answer(4), user(5)], "an answer can't be first"
    assert shortened(chat, room(600, 300), 1) == [SYSTEM, user(5)]


def test_room_is_left_for_the_answer() -> None:
    chat: list[Message] = [user(1), user(2), user(3), user(4)]
    assert shortened(chat, room(400, 380), 1) == [user(2), user(3), user(4)]
    assert shortened(chat, room(400, 380, output=90), 1) == [user(3), user(4)]
    assert shortened(chat, room(400, 380, output=None), 1) == [user(3), user(4)], "a quarter of the context"


def test_each_attempt_drops_more() -> None:
    chat: list[Message] = [user(n) for n in range(100)]
    lengths = [len(shortened(chat, room(10_000, 9_000), attempt) or ()) for attempt in range(1, MAX_ATTEMPTS + 1)]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (90, 1)


def test_half_is_dropped_if_the_sizes_are_unknown() -> None:
    chat: list[Message] = [user(n) for n in range(10)]
    assert shortened(chat, Room(500, 0, ">1000"), 1) == chat[5:]
    for unknown in (UNKNOWN, Room(100, 0, ""), Room(None, 0, "100")):
        assert shortened(chat, unknown, 1) == chat[5:]


@pytest.mark.parametrize("n_messages", [12, 25, 60, 400, 4000])
def test_a_conversation_of_many_contexts_fills_the_context(n_messages: int) -> None:
    """The worker stops counting at twice the context, and reports half of what it counted."""
    chat: list[Message] = [user(n) for n in range(n_messages)]
    context, attempt = 1000, 0
    while (prompt := 100 * len(chat)) > context:
        counted = f">{context + 1}" if prompt > 2 * context else str(prompt)
        attempt += 1
        chat = shortened(chat, Room(context, 0, counted), attempt) or []
    assert 7 <= len(chat) <= 10
    assert chat[-1] == user(n_messages - 1)


def test_a_call_and_its_results_are_dropped_together() -> None:
    chat: list[Message] = [user(1), call("a", "b"), result("a"), result("b"), user(2)]
    assert shortened(chat, room(600, 550), 1) == [user(2)]
    between: list[Message] = [user(1), call("a"), user(2), result("a"), user(3), answer(4), user(5)]
    assert shortened(between, room(700, 550), 1) == [user(2), user(3), answer(4), user(5)]


def test_the_task_of_an_agent_and_its_last_call_stay() -> None:
    chat: list[Message] = [SYSTEM, DEVELOPER, user(1)]
    for id in "abcd":
        chat += [call(id), result(id)]
    assert shortened(chat, room(1100, 900), 1) == [*chat[:3], *chat[5:]]
    assert shortened(chat, room(1100, 100), 1) == [*chat[:3], call("d"), result("d")]


@pytest.mark.parametrize(
    "chat",
    [[], [user(1)], [SYSTEM, user(1)], [SYSTEM], [user(1), call("a"), result("a")], [user(1), answer(2)]],
)
def test_nothing_is_left_to_drop(chat: list[Message]) -> None:
    assert shortened(chat, room(1000, 10), MAX_ATTEMPTS) is None


MESSAGES: st.SearchStrategy[Any] = st.one_of(
    st.builds(SystemMessage, st.text(max_size=5)),
    st.builds(DeveloperMessage, st.text(max_size=5)),
    st.builds(UserMessage, st.text(max_size=200)),
    st.builds(AssistantMessage, st.text(max_size=200)),
    st.sets(st.sampled_from("abc"), min_size=1).map(lambda ids: call(*ids)),
    st.sampled_from("abc").map(result),
    st.builds(FunctionMessage, st.just("f"), st.text(max_size=5)),
)


@given(st.lists(MESSAGES, max_size=20), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, MAX_ATTEMPTS))
def test_any_conversation_becomes_shorter_without_losing_its_end(
    chat: list[Message], prompt: int, context: int, attempt: int
) -> None:
    positions = kept(chat, room(prompt, context), attempt)
    if positions is None:
        return
    assert len(positions) < len(chat)
    assert positions == sorted(positions)
    users = [i for i, message in enumerate(chat) if isinstance(message, UserMessage)]
    assert not users or users[-1] in positions
    lead = 0
    while isinstance(chat[lead], SystemMessage | DeveloperMessage):
        lead += 1
    assert positions[:lead] == list(range(lead))
