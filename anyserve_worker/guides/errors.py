"""Rewrites llguidance's errors for the client: the problem, and the part of the guide that has it. PURE.

llguidance quotes the lines of the grammar around an error, with their numbers. That grammar is rarely the client's own
text: it is translated from a schema, a regular expression or GBNF, or the sidecar has combined it from several guides.
"""

import re
from collections.abc import Iterator

from anyserve_common.text import shortened
from protos import contract

MAX_QUOTED = 60
"""Characters to quote of a regular expression, around its error."""
MAX_REASON = 300
"""Maximum characters of a problem's description."""
MAX_LEVELS = 127
"""Maximum nested objects and arrays in a schema."""

_PLACE = re.compile(r"(?:at )?(?P<line>\d+)\(\d+\): ")
_EXCERPT = re.compile(r"\n *\d+ \| ")
_SCHEMA = "failed to compile JSON schema: "
_REGEX = re.compile(
    r"(?:invalid regex .* \(in regex\): )?regex parse error:\n(?P<shown>.*)\nerror: (?P<reason>[^\n]*)", re.DOTALL
)
_SHOWN_LINE = re.compile(r" {4}| *\d+: ")
"""The margin of a line of the regular expression in an error."""
_TOO_DEEP = re.compile(r'(?:failed to parse "%json": )?recursion limit exceeded.*')
_ELSEWHERE = re.compile(r"Resource (?P<address>'.*') is not present in a registry .*")
_LENGTHS = re.compile(r" *\(\?s:\.\{")
"""Start of the expression that llguidance generates for `minLength` and `maxLength`."""
_TOO_LONG = "'minLength' or 'maxLength' is too large"
_NESTED_GRAMMAR = re.compile(rf"%lark \{{(?P<rewritten> {contract.REWRITTEN_COMMENT})?$")
"""Ends the first line of a rule that holds another grammar."""
_PART = re.compile(
    rf"{contract.PART_COMMENT}(.*)\n\w+: (%json .*|/.*/|%lark \{{.*\n(?:.*\n)*?\}}(?: \".*)?)$", re.MULTILINE
)
"""A rule that refers to no other rule, after the name of its part. A nested grammar has several lines."""


def explain(language: str, source: str, error: str) -> tuple[str, str]:
    """Returns the problem, and the name of the part that has it; empty if unknown."""
    reason = error.removesuffix("<non-verbose/>").strip()
    line = 0
    if place := _PLACE.match(reason):
        reason, line = reason[place.end() :], int(place["line"])
    reason = _EXCERPT.split(reason, maxsplit=1)[0].removeprefix(_SCHEMA)
    if match := _REGEX.fullmatch(reason):
        lengths = _LENGTHS.match(match["shown"])
        reason = _TOO_LONG if lengths else f"{_around_error(match['shown'])}: {match['reason']}"
    elif _TOO_DEEP.fullmatch(reason):
        reason = f"more than {MAX_LEVELS} nested levels"
    elif match := _ELSEWHERE.fullmatch(reason):
        reason = f"{shortened(match['address'])} is outside the schema; only references within it are supported"
    part = ""
    if language == contract.LARK.name and line:
        part, line = _place(source, line)
        if line:
            reason = f"line {line}: {reason}"
    return shortened(reason, MAX_REASON), part


def parts(language: str, source: str) -> Iterator[tuple[str, str]]:
    """Yields (name of a part, guide in the same language) for each rule that refers to no other rule."""
    if language == contract.LARK.name:
        for name, body in _PART.findall(source):
            yield name, f"start: {body}\n"


def _place(source: str, line: int) -> tuple[str, int]:
    """Returns the part that a line belongs to, empty if it belongs to none, and the line's number in the author's text:
    in the grammar that is nested in the part, or in all of `source`; 0 if the author didn't write these lines."""
    lines = source.split("\n", line)[:line]
    if len(lines) > 1 and lines[-2].startswith(contract.PART_COMMENT):
        return lines[-2].removeprefix(contract.PART_COMMENT), 0
    for first in range(len(lines) - 1, 0, -1):
        if lines[first - 1].startswith(contract.PART_COMMENT) and (nested := _NESTED_GRAMMAR.search(lines[first])):
            own_line = 0 if nested["rewritten"] else line - first - 1
            return lines[first - 1].removeprefix(contract.PART_COMMENT), own_line
    return "", line


def _around_error(shown: str) -> str:
    """Returns the problem with the expression around the first caret of a parse error."""
    lines = shown.split("\n")
    below = next((i for i, line in enumerate(lines) if i and set(line) <= set(" ^") and "^" in line), 0)
    if not below:
        return "invalid regular expression"
    margin = _SHOWN_LINE.match(lines[below - 1])
    start = margin.end() if margin else 0
    expression, at = lines[below - 1][start:], lines[below].index("^") - start
    begin, end = max(0, at - MAX_QUOTED // 2), at + MAX_QUOTED // 2
    quoted = f"{'…' if begin else ''}{expression[begin:end]}{'…' if end < len(expression) else ''}"
    return f"invalid regular expression '{quoted}' (character {at + 1})"
