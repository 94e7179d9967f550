"""Converts the arguments of a call to the input of a custom tool, piece by piece.

PURE. Models call a custom tool like a function with one string parameter: the arguments are `{"input": "TEXT"}`, and
the input is TEXT. Some formats write a tool's text as a single JSON string. Arguments of another form become input when
the call ends: the value of `input` if it is a string, nothing for `{}`, otherwise the arguments unchanged.
"""

import re

import orjson

from openai_server.core.tools import INPUT

_HEAD = re.compile(rf'\s*(?:\{{\s*"{INPUT}"\s*:\s*)?"')
"""The text before the input."""
_MAX_HEAD = 256
"""Characters of the text before the input. Arguments with more before a string have another form."""
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNICODE_ESCAPE = 6
"""Characters of an escape such as `\\u00e9`."""
_REPLACEMENT = "\ufffd"


class CustomInput:
    """Reads the arguments of one call. The result doesn't depend on how they were split into pieces."""

    def __init__(self) -> None:
        self._held = ""
        """Before the input: all text so far. In it: an incomplete escape. After it: empty."""
        self._state = self._before
        self._high_surrogate: int | None = None
        """The first half of a surrogate pair whose second half is missing."""

    def push(self, text: str) -> str:
        """Returns the next piece of the input; empty if the text completes none."""
        return self._state(text)

    def end(self) -> str:
        """Returns the rest of the input. Drops an escape that was cut off."""
        text, state = self._held, self._state
        self._held, self._state = "", self._after
        return _input_of(text) if state in (self._before, self._unrecognized) else ""

    def _before(self, text: str) -> str:
        self._held += text
        if match := _HEAD.match(self._held):
            text, self._held = self._held[match.end() :], ""
            self._state = self._inside
            return self._inside(text)
        if len(self._held) > _MAX_HEAD:
            self._state = self._unrecognized
        return ""

    def _inside(self, text: str) -> str:
        text, self._held = self._held + text, ""
        out: list[str] = []
        at, end = 0, len(text)
        while at < end:
            if match := _PLAIN.match(text, at):
                out.append(self._lone_surrogate() + match[0])
                at = match.end()
            elif text[at] == '"':
                out.append(self._lone_surrogate())
                self._state = self._after
                break
            else:
                length = _UNICODE_ESCAPE if text[at + 1 : at + 2] == "u" else 2
                if at + length > end:
                    self._held = text[at:]
                    break
                out.append(self._escape(text[at + 1 : at + length]))
                at += length
        return "".join(out)

    def _after(self, text: str) -> str:
        return ""

    def _unrecognized(self, text: str) -> str:
        self._held += text
        return ""

    def _escape(self, escape: str) -> str:
        if escape[0] != "u":
            return self._lone_surrogate() + _ESCAPES.get(escape, escape)
        try:
            code = int(escape[1:], 16)
        except ValueError:
            return self._lone_surrogate() + escape
        if 0xDC00 <= code < 0xE000 and self._high_surrogate is not None:
            high, self._high_surrogate = self._high_surrogate, None
            return chr(0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00))
        before = self._lone_surrogate()
        if 0xD800 <= code < 0xDC00:
            self._high_surrogate = code
            return before
        return before + (_REPLACEMENT if 0xDC00 <= code < 0xE000 else chr(code))

    def _lone_surrogate(self) -> str:
        """The replacement of half a surrogate pair that no other half follows."""
        if self._high_surrogate is None:
            return ""
        self._high_surrogate = None
        return _REPLACEMENT


def _input_of(text: str) -> str:
    if f'{{"{INPUT}":'.startswith("".join(text.split())):
        return ""  # cut off before the input
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if arguments == {}:
        return ""
    value = arguments.get(INPUT) if isinstance(arguments, dict) else None
    return value if isinstance(value, str) else text
