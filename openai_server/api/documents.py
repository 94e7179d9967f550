"""How a text with a title stands in a prompt, the same for all APIs. PURE."""

import re
from collections.abc import Iterable

MAX_TITLE = 255
"""Characters of a title; a longer one is cut."""


def tagged(tag: str, text: str, **fields: str | None) -> str:
    """The text between tags, after its fields. A title is one line that can't contain a tag.

    Nothing of the text is changed. If it has the end tag, the tags get a number, so that what follows in the text
    doesn't seem to be outside of it.
    """
    if title := fields.get("title"):
        fields["title"] = one_line(title)
    lines = [f"<{name}>{value}</{name}>" for name, value in fields.items() if value]
    tag = _unused(tag, (*lines, text))
    return "\n".join([f"<{tag}>", *lines, text, f"</{tag}>"])


def _unused(tag: str, texts: Iterable[str]) -> str:
    """The tag, with the lowest number with which no text ends it."""
    end = re.compile(rf"</\s*{tag}(?:_(\d{{1,9}}))?\b", re.IGNORECASE)
    numbers = {int(found or 0) for text in texts if "</" in text for found in end.findall(text)}
    number = next(n for n in range(len(numbers) + 1) if n not in numbers)
    return f"{tag}_{number}" if number else tag


def one_line(title: str) -> str:
    """A title without tags, line breaks and control characters."""
    text = "".join(char if char.isprintable() else " " for char in title[:MAX_TITLE])
    return " ".join(text.split()).replace("<", "&lt;").replace(">", "&gt;")


def document(text: str, title: str | None, context: str | None = None) -> str:
    """A document as the model reads it."""
    return tagged("document", text, title=title, context=context)
