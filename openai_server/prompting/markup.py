"""The texts that are markup to a model, and their places in messages and tools.

PURE. Markup is every control token of the vocabulary, and every user-defined token that the chat template writes. The
same text in a field of a request is plain text: `Markup.places` returns the places to mark so that the model reads no
token there. Ordinary text has no such places, and is scanned only once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import orjson

from openai_server.parsing.reasoning import ReasoningTags
from openai_server.prompting.capabilities import Capabilities
from protos.literals import occurrences, pattern_of

_MARKUP_PATTERN = re.compile(r"<[^<>\s'\"]{1,40}>|\[/?[A-Z][A-Z_]{1,30}\]|◁[^◁▷\s]{1,30}▷")
"""Markup in a template of a model whose backend doesn't list its control tokens."""
_BRACKETS = re.compile(r"[<>\[\]{}()|｜◁▷]")
"""Markup has one of these characters. Other user-defined tokens are words or numbers, which any template may write."""
_GENERIC_TAGS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def markup_of(parameters: Mapping[str, str], template: Capabilities, thoughts: ReasoningTags | None) -> "Markup":
    """The markup of the model with these `parameters`. Takes a tenth of a second for 6,000 tokens."""
    written = "\n".join(
        (
            *template.words.texts,
            *template.sample_prompts,
            *_GENERIC_TAGS,
            *((thoughts.begin, thoughts.end) if thoughts else ()),
        )
    )
    tokens = {parameters.get("bos_token", ""), parameters.get("eos_token", "")}
    if CONTROL_TOKENS in parameters:
        tokens.update(_texts(parameters[CONTROL_TOKENS]))
    else:
        tokens.update(_MARKUP_PATTERN.findall(written))
    user_defined = _texts(parameters.get("user_defined_tokens", ""))
    tokens.update(text for text in user_defined if _BRACKETS.search(text) and len(text) > 2 and text in written)
    return Markup(tokens, template)


MARKUP_PARAMETERS = (CONTROL_TOKENS := "control_tokens", "user_defined_tokens", "bos_token", "eos_token")
"""The parameters of a model that are read. Without the first one, the markup is found by _MARKUP_PATTERN."""


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
            char for token in self.tokens for edge in (token[0], token[-1]) for char in (edge.lower(), edge.upper())
        }
        self._edges = "".join(sorted(edges))
        self._first = re.compile(
            f"[{re.escape(''.join({token[0] for token in self.tokens}))}]" if self.tokens else "(?!)"
        )
        self._last = re.compile(
            f"[{re.escape(''.join({token[-1] for token in self.tokens}))}]" if self.tokens else "(?!)"
        )
        # Words that the template looks up or compares are its own, such as `type` in a schema.
        self._middles = (
            frozenset(_middles(self.tokens, template.words.texts)) - template.words.texts - template.words.attributes
        )
        self._cut_texts = pattern_of(template.words.cut_texts) if template.words.cut_texts else None
        self._cases = tuple(case for name, case in _CASES.items() if name in template.words.case_functions)

    def is_in(self, text: str) -> bool:
        """Whether the text contains a complete token."""
        return self.pattern.search(text) is not None

    def places(self, text: str) -> Iterator[int]:
        """Indexes at which to mark the text, so that every token that it contains or becomes a part of has a mark.

        They are after the first character of each token; at an end of the text that the text around it in the prompt
        may complete to a token; and the same around the parts that the template may cut out.
        """
        if len(text) < self.longest + _MARGIN and text.strip() in self._middles:
            yield len(text) - len(text.lstrip())
            return
        for edge in self._edges:  # a search for one character is fast
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
        for cut in self._cut_texts.finditer(text) if self._cut_texts else ():
            yield from self._open_end(text, cut.start())
            yield from self._open_start(text, cut.end())

    def _inside(self, text: str) -> Iterator[int]:
        for match in occurrences(self.pattern, text):
            yield match.start() + (match.end() - match.start() > 1)

    def _open_end(self, text: str, end: int) -> Iterator[int]:
        """The end of `text[:end]` without trailing whitespace, if that ends with the beginning of a token."""
        tail = text[max(0, end - self.longest - _MARGIN) : end].rstrip()
        for first in self._first.finditer(tail, max(0, len(tail) - self.longest)):
            if tail[first.start() :] in self._beginnings:
                yield end - len(text[max(0, end - self.longest - _MARGIN) : end]) + len(tail)
                return

    def _open_start(self, text: str, start: int) -> Iterator[int]:
        """The start of `text[start:]` without leading whitespace, if that begins with the end of a token."""
        head = text[start : start + self.longest + _MARGIN]
        stripped = head.lstrip()[: self.longest]
        for last in self._last.finditer(stripped):
            if stripped[: last.end()] in self._endings:
                yield start + len(head) - len(head.lstrip())
                return


_MARGIN = 64
"""Maximum characters of whitespace at an end of a text that are taken into account for stripping."""
_CASES = {"upper": str.upper, "lower": str.lower}


def _middles(tokens: Iterable[str], texts: Iterable[str]) -> Iterator[str]:
    """Texts that become a token between two texts of the template, as in `'<|' + message.name + '|>'`."""
    begins = {text[-n:] for text in texts for n in range(1, min(len(text), _MAX_AFFIX) + 1)}
    ends = {text[:n] for text in texts for n in range(1, min(len(text), _MAX_AFFIX) + 1)}
    for token in tokens:
        for start in range(1, min(len(token), _MAX_AFFIX + 1)):
            if token[:start] in begins:
                for end in range(max(start + 1, len(token) - _MAX_AFFIX), len(token)):
                    if token[end:] in ends:
                        yield token[start:end]


_MAX_AFFIX = 8
"""Characters of a token that a template may write on each side of a field."""
