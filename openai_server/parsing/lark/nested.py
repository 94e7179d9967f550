"""Rewrites a client's grammar to a nested one, for a text that stands in a JSON string or between tags.

PURE. The grammar is in llguidance's dialect of Lark. Constructs that refer to something other than text (control
tokens, other grammars, options of the engine) are refused.

llguidance splits a text into terminals, each as long as possible, and never takes a byte back. So a terminal that may
go on with an escape can't be followed by one that begins with an escape: after the backslash, it is too late to end the
first. Therefore all rules of a grammar without recursion become one terminal, which matches exactly the texts of the
grammar. A recursive grammar keeps its rules; in a JSON string, a terminal that is a run of characters is split into its
plain and its escaped ones, and a terminal whose end depends on more than one byte is refused.
"""

import re
from collections.abc import Iterator, Sequence

from anyserve_common.text import ends_in_escape
from openai_server.core.lark import literal
from openai_server.parsing.lark.characters import ESCAPED, Refused
from openai_server.parsing.lark.definitions import Definition, Grammar, read, refused
from openai_server.parsing.lark.regex import MAX_LENGTH, characters_of, is_closed, run_of, too_long
from openai_server.parsing.lark.texts import InJson, PlaceWriter, Raw, on_one_line, parts_of, text_of
from openai_server.parsing.lark.tokens import Token
from protos.contract import REWRITTEN_COMMENT

_ANY = "/(?s:.)*/"
_NONEMPTY = "/(?s:.)+/"
_MAX_NEGATIONS = 8
_ANCHOR = re.compile(r"(?<![\[\\])\^|(?<!\\)\$|\\[AbBzZ]")


def in_json_string(definition: str) -> str:
    """The grammar of the definition's texts as they stand in a JSON string: a value in our grammars. Raises Refused."""
    grammar = read(definition)
    if grammar.is_recursive:
        return _block(_RulesInJson(grammar).lines())
    lines, name = _terminals(grammar, InJson())
    return _block([f"start: {name}", *lines])


def up_to(definition: str, end: str, tag: str) -> str:
    """The grammar of the definition's texts and of `end` after them: an expression in our grammars. `end` begins at the
    first `tag`. Raises Refused."""
    grammar = read(definition)
    if grammar.is_recursive:
        return f"{_block(_RulesBeforeTag(grammar, tag).lines())} {literal(end)}"
    lines, name = _terminals(grammar, Raw())
    return _until_tag(name, lines, end, tag)


def regex_in_json_string(regex: str) -> str:
    """Like `in_json_string`, for the texts that match a regular expression. Raises Refused."""
    _check_end(regex)
    return _block(["start: REGEX", f"REGEX: {InJson().regex(with_slashes(regex), '')}"])


def regex_up_to(regex: str, end: str, tag: str) -> str:
    """Like `up_to`, for the texts that match a regular expression. Raises Refused."""
    name = "REGEX"
    _check_end(regex)
    return _until_tag(name, [f"{name}: /{with_slashes(on_one_line(regex))}/"], end, tag)


def _check_end(regex: str) -> None:
    if ends_in_escape(regex):
        raise Refused("it ends with a backslash that escapes nothing")


def search_pattern(regex: str) -> str | None:
    """The pattern, for a terminal, of the texts in which a regular expression matches somewhere, as in JSON Schemas.
    None if it has an anchor at another place than its ends, which llguidance doesn't support."""
    begin = end = _ANY
    if "|" not in regex:
        if regex.startswith("^"):
            begin, regex = "", regex[1:]
        if regex.endswith("$") and not regex.endswith(r"\$"):
            end, regex = "", regex[:-1]
    if _ANCHOR.search(regex) or ends_in_escape(regex):
        return None
    return f"({begin} /(?:{with_slashes(on_one_line(regex))})/ {end})"


def _until_tag(name: str, lines: Sequence[str], end: str, tag: str) -> str:
    text = f"({name} & ~({_ANY} {literal(tag)} {_ANY})) {literal(end)}"
    return _block(["start[lazy]: TEXT_AND_END", f"TEXT_AND_END: {text}", *lines])


def _block(lines: Sequence[str]) -> str:
    return f"%lark {{ {REWRITTEN_COMMENT}\n" + "\n".join(lines) + "\n}"


def with_slashes(regex: str) -> str:
    """The expression with a backslash before each slash."""
    pieces = regex.split("\\\\")
    return "\\\\".join(piece.replace("\\/", "/").replace("/", "\\/") for piece in pieces)


# ---- One terminal for the whole grammar


def _terminals(grammar: Grammar, texts: PlaceWriter) -> tuple[list[str], str]:
    """A terminal for each definition, and the name of the one for `start`."""
    used = list(grammar.used())
    names = {definition.name: f"T{i}" for i, definition in enumerate(used)}
    lines: list[str] = []
    ignored = ""
    if grammar.ignored:
        ignored = "IGNORED"
        choices = " | ".join(f"({_joined(_values(body, texts, names))})" for body in grammar.ignored)
        lines.append(f"{ignored}: ({choices})*")
    for definition in used:
        name = names[definition.name]
        body = _joined(_values(definition.body, texts, names, "" if definition.is_terminal else ignored))
        if definition.suffix:
            body = f"({body}) {_joined(_values([definition.suffix], texts, names))}"
        if definition.is_lazy:
            lines.append(f"{name}_ANY: {body}")
            body = f"{name}_ANY & ~({name}_ANY {_NONEMPTY})"
        lines.append(f"{name}: {body}")
    return lines, names["start"]


def _values(
    body: Sequence[Token], texts: PlaceWriter, names: dict[str, str], ignored: str = "", level: int = 0
) -> Iterator[str]:
    """The tokens of a body, rewritten. `ignored`: what may follow each terminal of a rule. `level`: the number of
    negations around the body."""
    if level > _MAX_NEGATIONS:
        raise Refused(f"line {body[0].line}: more than {_MAX_NEGATIONS} nested '~'")
    at = 0
    while at < len(body):
        token = body[at]
        at += 1
        match token.kind:
            case "string" if at + 1 < len(body) and body[at].text == ".." and body[at + 1].kind == "string":
                value = texts.range(token, body[at + 1])
                at += 2
            case "string":
                value = texts.string(token)
            case "regex":
                value = texts.regex(*parts_of(token))
            case "name":
                value = names.get(token.text, token.text)
            case "rule":
                yield names.get(token.text, token.text)
                continue
            case _:
                if token.text == "~" and not (at < len(body) and body[at].kind == "number"):
                    end = _end_of_value(body, at)
                    yield f"({texts.any_text} & ~({_joined(_values(body[at:end], texts, names, level=level + 1))}))"
                    at = end
                else:
                    yield token.text
                continue
        yield f"({value} {ignored})" if ignored else value


def _end_of_value(body: Sequence[Token], at: int) -> int:
    """Index after the value that begins at `at`: one token or a group. Raises Refused."""
    level = 0
    for i in range(at, len(body)):
        level += {"(": 1, "[": 1, ")": -1, "]": -1}.get(body[i].text, 0)
        if level <= 0 and body[i].text != "~":
            return i + 1 + (2 if i + 1 < len(body) and body[i + 1].text == ".." else 0)
    raise Refused(f"line {body[at - 1].line}: '~' without a value")


def _joined(values: Iterator[str]) -> str:
    """Raises Refused if the text gets too long."""
    out: list[str] = []
    length = 0
    for value in values:
        out.append(value)
        length += len(value) + 1
        if length > MAX_LENGTH:
            raise too_long()
    return " ".join(out)


# ---- Recursive grammars


class _Rules:
    """Writes the rules of a recursive grammar, with the client's names."""

    def __init__(self, grammar: Grammar, texts: PlaceWriter) -> None:
        self._grammar = grammar
        self._texts = texts
        self._lines: list[str] = []
        self._taken = set(grammar.definitions)
        self._with_escapes: dict[str, bool] = {}
        """Whether the texts of a terminal may have characters that JSON escapes, by its name."""

    def lines(self) -> list[str]:
        self._begin()
        for definition in self._grammar.used():
            self._write(definition)
        return self._lines

    def _begin(self) -> None:
        for body in self._grammar.ignored:
            self._lines.append(f"%ignore {_joined(_values(body, self._texts, {}))}")

    def _write(self, definition: Definition) -> None:
        attributes = "[lazy]" if definition.is_lazy else ""
        if definition.suffix:
            attributes = f"[suffix={_joined(_values([definition.suffix], self._texts, {}))}]"
        self._lines.append(f"{definition.name}{attributes}: {self._body(definition)}")

    def _body(self, definition: Definition) -> str:
        raise NotImplementedError

    def _new_name(self, name: str) -> str:
        while name in self._taken:
            name += "_x" if name.islower() else "_X"
        self._taken.add(name)
        return name


class _RulesBeforeTag(_Rules):
    """No terminal contains `tag`. (A last terminal that may contain its beginning can't end, so such grammars leave the
    model no way out: the answer ends at its token limit.)"""

    def __init__(self, grammar: Grammar, tag: str) -> None:
        super().__init__(grammar, Raw())
        self._without_tag = f"~({_ANY} {literal(tag)} {_ANY})"

    def _body(self, definition: Definition) -> str:
        if definition.is_terminal:
            body = _joined(_values(definition.body, self._texts, {}))
            return body if self._is_literal(definition.body) else f"({body}) & {self._without_tag}"
        if definition.is_lazy:
            return _joined(_values(definition.body, self._texts, {}))
        tokens: list[Token] = []
        for token in definition.body:
            if token.kind == "regex":
                name = self._new_name(f"X{len(self._lines)}")
                self._lines.append(f"{name}: ({self._texts.regex(*parts_of(token))}) & {self._without_tag}")
                token = Token("name", name, token.line)
            tokens.append(token)
        return _joined(_values(tokens, self._texts, {}))

    def _is_literal(self, body: Sequence[Token]) -> bool:
        return all(token.kind not in ("regex", "name") and token.text != "~" for token in body)


class _RulesInJson(_Rules):
    def __init__(self, grammar: Grammar) -> None:
        super().__init__(grammar, InJson())
        self._ignored = ""

    def _begin(self) -> None:
        if self._grammar.ignored:
            self._ignored = self._new_name("ignored")
            choices = " | ".join(self._lexeme(body) for body in self._grammar.ignored)
            self._lines.append(f"{self._ignored}: ({choices})*")

    def _write(self, definition: Definition) -> None:
        if not definition.is_terminal or not self._has_escapes(definition.body) or definition.is_lazy:
            super()._write(definition)

    def _body(self, definition: Definition) -> str:
        if definition.is_terminal or definition.is_lazy:
            return _joined(_values(definition.body, self._texts, {}))
        out: list[str] = []
        body, at = definition.body, 0
        while at < len(body):
            token = body[at]
            at += 1
            if token.kind in ("string", "regex", "name"):
                if at + 1 < len(body) and body[at].text == ".." and token.kind == "string":
                    value = self._lexeme(body[at - 1 : at + 2])
                    at += 2
                else:
                    value = self._lexeme([token])
                out.append(f"({value} {self._ignored})" if self._ignored else value)
            else:
                out.append(token.text)
        return " ".join(out)

    def _lexeme(self, body: Sequence[Token]) -> str:
        """The expression for a terminal in a rule. Raises Refused if its end doesn't show at its first byte."""
        first = body[0]
        if len(body) == 1 and first.kind == "name":
            definition = self._grammar.definitions.get(first.text)
            if definition is None:
                raise Refused(f"line {first.line}: the grammar has no terminal '{first.text}'")
            return self._lexeme(definition.body) if self._has_escapes(definition.body) else first.text
        if not self._has_escapes(body) or (first.kind == "string" and len(body) in (1, 3)):
            return f"({_joined(_values(body, self._texts, {}))})"
        operator = body[1].text if len(body) == 2 else ""
        if first.kind == "regex" and len(body) - bool(operator) == 1 and operator in ("", "+", "*", "?"):
            regex, flags = parts_of(first)
            if run := run_of(regex, flags):
                own = run.quantifier or operator
                if operator not in ("", own):
                    own = "*"
                plain = f"/{run.plain}{'+' if own in ('+', '*') else ''}/ | " if run.plain else ""
                return f"({plain}/{run.escapes}/){own}"
            if not operator and is_closed(regex, flags):
                return self._texts.regex(regex, flags)
        raise refused(first)

    def _has_escapes(self, body: Sequence[Token]) -> bool:
        """Whether the text may have characters that JSON escapes."""
        for i, token in enumerate(body):
            if token.kind == "regex" and characters_of(*parts_of(token)) & ESCAPED:
                return True
            if token.kind == "string" and ESCAPED.intersection(text_of(token)):
                return True
            if (token.text == ".." and text_of(body[i - 1]) < "\\") or token.text == "~":
                return True
            definition = self._grammar.definitions.get(token.text) if token.kind == "name" else None
            if definition is not None:
                if token.text not in self._with_escapes:
                    self._with_escapes[token.text] = self._has_escapes(definition.body)
                if self._with_escapes[token.text]:
                    return True
        return False
