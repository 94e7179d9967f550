"""Which texts are markup to a model, and where a message or a tool holds such a text.

PURE. Markup is every control token of the vocabulary, and every user-defined token that the chat template writes. In a
field of a request the same text is text: `Markup.places` gives the places that have to be marked so that no token is
read there. Nothing is found in ordinary text, which is looked through once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import orjson

from openai_server.parsing.reasoning import ReasoningTags
from openai_server.prompting.capabilities import Capabilities
from protos.literals import occurrences, pattern_of

_LOOKS_LIKE_MARKUP = re.compile(r"<[^<>\s'\"]{1,40}>|\[/?[A-Z][A-Z_]{1,30}\]|◁[^◁▷\s]{1,30}▷")
"""For a backend that doesn't list its control tokens: what a template writes in this form."""
_BRACKETS = re.compile(r"[<>\[\]{}()|｜◁▷]")
"""Markup has one of these. A user-defined token may also be a word or a number, which every template writes."""
_GENERIC_TAGS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def markup_of(parameters: Mapping[str, str], template: Capabilities, thoughts: ReasoningTags | None) -> "Markup":
    """The markup of the model with these `parameters`. Takes a tenth of a second for 6,000 tokens."""
    written = "\n".join(
        (
            *template.words.texts,
            *template.written,
            *_GENERIC_TAGS,
            *((thoughts.begin, thoughts.end) if thoughts else ()),
        )
    )
    tokens = {parameters.get("bos_token", ""), parameters.get("eos_token", "")}
    if LISTED in parameters:
        tokens.update(_texts(parameters[LISTED]))
    else:
        tokens.update(_LOOKS_LIKE_MARKUP.findall(written))
    user_defined = _texts(parameters.get("user_defined_tokens", ""))
    tokens.update(text for text in user_defined if _BRACKETS.search(text) and len(text) > 2 and text in written)
    return Markup(tokens, template)


MARKUP_PARAMETERS = (LISTED := "control_tokens", "user_defined_tokens", "bos_token", "eos_token")
"""What is read of a model's parameters. Without the first, its markup has to be guessed."""


def _texts(parameter: str) -> list[str]:
    """The strings of a JSON array; empty for anything else."""
    try:
        texts = orjson.loads(parameter)
    except orjson.JSONDecodeError:
        return []
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


class Markup:
    """The markup of one model with one template."""

    def __init__(self, tokens: Iterable[str], template: Capabilities) -> None:
        self.tokens = frozenset(token for token in tokens if token.strip())
        self.pattern = pattern_of(self.tokens)
        self.longest = max(map(len, self.tokens), default=0)
        self._beginnings = frozenset(token[:n] for token in self.tokens for n in range(1, len(token)))
        self._endings = frozenset(token[n:] for token in self.tokens for n in range(1, len(token)))
        edges = {
            char for token in self.tokens for each in (token[0], token[-1]) for char in (each.lower(), each.upper())
        }
        self._edges = "".join(sorted(edges))
        self._first = re.compile(
            f"[{re.escape(''.join({token[0] for token in self.tokens}))}]" if self.tokens else "(?!)"
        )
        self._last = re.compile(
            f"[{re.escape(''.join({token[-1] for token in self.tokens}))}]" if self.tokens else "(?!)"
        )
        # What the template looks up or compares is its own word, such as `type` in a schema.
        self._middles = (
            frozenset(_middles(self.tokens, template.words.texts)) - template.words.texts - template.words.attributes
        )
        self._removed = pattern_of(template.words.removed) if template.words.removed else None
        self._cases = tuple(case for name, case in _CASES.items() if name in template.words.changes_case)

    def found(self, text: str) -> bool:
        """Whether a whole token is in it."""
        return self.pattern.search(text) is not None

    def places(self, text: str) -> Iterator[int]:
        """Where to mark this text, so that there is a mark in whatever token it becomes, or becomes a part of.

        In each token, behind its first character; at an end that may be continued by what comes before or behind the
        text in the prompt; and the same around what the template may cut out of it.
        """
        if len(text) < self.longest + _MARGIN and text.strip() in self._middles:
            yield len(text) - len(text.lstrip())
            return
        for edge in self._edges:  # a search for one character takes hardly any time
            if edge in text:
                break
        else:
            return
        yield from self._inside(text)
        for case in self._cases:
            if len(changed := case(text)) == len(text) and changed != text:
                yield from self._inside(changed)
        yield from self._open_end(text, len(text))
        yield from self._open_start(text, 0)
        for cut in self._removed.finditer(text) if self._removed else ():
            yield from self._open_end(text, cut.start())
            yield from self._open_start(text, cut.end())

    def _inside(self, text: str) -> Iterator[int]:
        for found in occurrences(self.pattern, text):
            yield found.start() + (found.end() - found.start() > 1)

    def _open_end(self, text: str, end: int) -> Iterator[int]:
        """Where `text[:end]` ends without its whitespace, if the beginning of a token stands there."""
        tail = text[max(0, end - self.longest - _MARGIN) : end].rstrip()
        for first in self._first.finditer(tail, max(0, len(tail) - self.longest)):
            if tail[first.start() :] in self._beginnings:
                yield end - len(text[max(0, end - self.longest - _MARGIN) : end]) + len(tail)
                return

    def _open_start(self, text: str, start: int) -> Iterator[int]:
        """Where `text[start:]` begins without its whitespace, if the end of a token stands there."""
        head = text[start : start + self.longest + _MARGIN]
        stripped = head.lstrip()[: self.longest]
        for last in self._last.finditer(stripped):
            if stripped[: last.end()] in self._endings:
                yield start + len(head) - len(head.lstrip())
                return


_MARGIN = 64
"""Characters of whitespace at an end of a text that may be stripped."""
_CASES = {"upper": str.upper, "lower": str.lower}


def _middles(tokens: Iterable[str], texts: Iterable[str]) -> Iterator[str]:
    """What becomes a token between two texts that the template writes, as in `'<|' + message.name + '|>'`."""
    begins = {text[-n:] for text in texts for n in range(1, min(len(text), _MIDDLE) + 1)}
    ends = {text[:n] for text in texts for n in range(1, min(len(text), _MIDDLE) + 1)}
    for token in tokens:
        for start in range(1, min(len(token), _MIDDLE + 1)):
            if token[:start] in begins:
                for end in range(max(start + 1, len(token) - _MIDDLE), len(token)):
                    if token[end:] in ends:
                        yield token[start:end]


_MIDDLE = 8
"""Characters of a token that a template may write on either side of a field."""
