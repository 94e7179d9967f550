"""Writes the literals and patterns of a grammar for texts as they are, and for texts in a JSON string. PURE."""

from typing import Protocol

import orjson

from openai_server.core.lark import literal
from openai_server.parsing.lark.characters import ESCAPED, SHORT_ESCAPES, Refused
from openai_server.parsing.lark.regex import any_text, escaped_regex, literal_text, range_of
from openai_server.parsing.lark.tokens import Token


def text_of(token: Token) -> str:
    """The text of a string literal. Beside JSON's escapes, it may have `\\x41`. Raises Refused."""
    pieces = token.text.removesuffix("i").split("\\\\")
    try:
        return str(orjson.loads("\\\\".join(piece.replace("\\x", "\\u00") for piece in pieces)))
    except orjson.JSONDecodeError:  # half a surrogate pair
        raise Refused(f"line {token.line}: the string {token.text}") from None


def parts_of(regex: Token) -> tuple[str, str]:
    """A regular expression without its slashes, and its flags."""
    end = regex.text.rindex("/")
    return regex.text[1:end], regex.text[end + 1 :]


class PlaceWriter(Protocol):
    any_text: str
    """The regular expression, with slashes, of all texts that may stand at this place."""

    def string(self, token: Token) -> str: ...

    def regex(self, regex: str, flags: str) -> str:
        """Raises Refused."""

    def range(self, first: Token, last: Token) -> str:
        """Raises Refused."""
        texts = text_of(first), text_of(last)
        ignores_case = "i" in (first.text[-1], last.text[-1])
        if any(len(text) != 1 for text in texts) or texts[0] > texts[1] or ignores_case:
            raise Refused(f"line {first.line}: the range {first.text}..{last.text}")
        return self.regex(range_of(*texts), "")


class Raw(PlaceWriter):
    """Texts as they are."""

    any_text = "/(?s:.)*/"

    def string(self, token: Token) -> str:
        return literal(text_of(token)) + ("i" if token.text.endswith("i") else "")

    def regex(self, regex: str, flags: str) -> str:
        if "l" in flags:
            raise Refused("the flag 'l' of a regular expression")
        return f"/{regex if 'x' in flags else on_one_line(regex)}/{flags}"


class InJson(PlaceWriter):
    """Texts in a JSON string, with its escapes."""

    any_text = f"/{any_text()}/"

    def string(self, token: Token) -> str:
        text, ignores_case = text_of(token), token.text.endswith("i")
        escaped = ESCAPED.intersection(text)
        if (ignores_case and escaped) or not escaped <= SHORT_ESCAPES.keys():
            return f"/{literal_text(text, ignore_case=ignores_case)}/"
        for character in ("\\", *(escaped - {"\\"})):
            text = text.replace(character, "\\" + SHORT_ESCAPES[character])
        return literal(text) + ("i" if ignores_case else "")

    def regex(self, regex: str, flags: str) -> str:
        return f"/{escaped_regex(regex, flags)}/"


def on_one_line(regex: str) -> str:
    return regex.replace("\n", r"\n")
