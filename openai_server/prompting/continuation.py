"""A prompt that ends inside the last message, so that the model continues the message.

PURE. Only the template determines where the message's text ends in the prompt. So the text gets a mark before it is
rendered, and the prompt is cut at the mark. transformers does the same (`continue_final_message`).
"""

from typing import NoReturn

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message
from openai_server.prompting.messages import TemplateObject

_MARK = "CONTINUE_FINAL_MESSAGE_HERE "
"""The space at its end shows whether the template strips the text."""


def mark(messages: list[TemplateObject], last: Message) -> str:
    """Adds the mark to the last message's text, and returns the original text. Raises InvalidRequest without a text."""
    if last.content is None:
        _refuse("the last message has no content to continue")
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] = content + _MARK
        return content
    text = str(content[-1]["text"])
    content[-1]["text"] = text + _MARK
    return text


def cut(prompt: str, text: str) -> str:
    """The prompt up to the mark. Raises InvalidRequest if the template omits or changes `text`."""
    place = prompt.rfind(_MARK.strip())
    if place < 0 or text.strip() not in prompt:
        _refuse("the chat template omits or changes the text of the last message")
    beginning = prompt[:place]
    return beginning if prompt.startswith(_MARK, place) else beginning.rstrip()


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"'continue_final_message' is not possible: {problem}.", param="continue_final_message")
