"""A prompt that ends inside the last message, so that the model goes on with it.

PURE. Where the message's text ends in the prompt only the template knows, so the text is marked before it is rendered,
and the prompt is cut at the mark. This follows transformers (`continue_final_message`).
"""

from typing import NoReturn

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message
from openai_server.prompting.messages import Seen

_MARK = "CONTINUE_FINAL_MESSAGE_HERE "
"""Its last character shows whether the template strips the text."""


def mark(seen: list[Seen], last: Message) -> str:
    """Marks the end of the last message's text, and gives that text. Raises InvalidRequest if it has none."""
    if last.content is None:
        _refuse("the last message has no content to go on with")
    content = seen[-1]["content"]
    if isinstance(content, str):
        seen[-1]["content"] = content + _MARK
        return content
    text = str(content[-1]["text"])
    content[-1]["text"] = text + _MARK
    return text


def cut(prompt: str, text: str) -> str:
    """The prompt up to the mark. Raises InvalidRequest if the template did not write `text` as it is."""
    place = prompt.rfind(_MARK.strip())
    if place < 0 or text.strip() not in prompt:
        _refuse("the chat template does not write the last message as it is")
    kept = prompt[:place]
    return kept if prompt.startswith(_MARK, place) else kept.rstrip()


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"'continue_final_message' is not possible: {problem}.", param="continue_final_message")
