"""Reads the rules, terminals and statements of a grammar. PURE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from openai_server.parsing.lark.characters import Refused
from openai_server.parsing.lark.tokens import Token, tokens_of

_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[a-fA-F0-9]",
    "INT": "[0-9]+",
    "SIGNED_INT": r"(\+|-)?[0-9]+",
    "DECIMAL": r"([0-9]+\.[0-9]*)|(\.[0-9]+)",
    "_EXP": r"[eE](\+|-)?[0-9]+",
    "FLOAT": r"([0-9]+\.[0-9]*|\.[0-9]+)([eE](\+|-)?[0-9]+)?|[0-9]+[eE](\+|-)?[0-9]+",
    "NUMBER": r"([0-9]+)|([0-9]+\.[0-9]*|\.[0-9]+)([eE](\+|-)?[0-9]+)?|[0-9]+[eE](\+|-)?[0-9]+",
    "ESCAPED_STRING": r"\"([^\"\\]|\\.)*\"",
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"\/\/[^\n]*",
    "C_COMMENT": r"\/\*(.|\n)*?\*\/",
    "SQL_COMMENT": r"--[^\n]*",
}
"""The terminals of `%import common`, as in llguidance."""
_COMMON |= {f"SIGNED_{name}": rf"(\+|-)?({_COMMON[name]})" for name in ("FLOAT", "NUMBER")}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_KINDS = frozenset({"string", "regex", "rule", "name", "number"})
_OPERATORS = frozenset("()[]{}|,~?+*") | {".."}
_ATTRIBUTES = ("lazy", "suffix", "capture")
_MAX_DEPTH = 200
"""Rules within rules, terminals within terminals, and brackets within brackets."""
_TOO_DEEP = "the grammar nests too deeply"


@dataclass(frozen=True, slots=True)
class Definition:
    name: str
    is_terminal: bool
    body: Sequence[Token]
    is_lazy: bool = False
    """Whether it matches as little as possible."""
    suffix: Token | None = None
    """The text or pattern that ends it."""


@dataclass(slots=True)
class Grammar:
    definitions: dict[str, Definition] = field(default_factory=dict)
    ignored: list[Sequence[Token]] = field(default_factory=list)
    """Patterns of texts that may stand between terminals."""

    @property
    def is_recursive(self) -> bool:
        """Whether a rule that `start` uses refers to itself.

        Raises Refused for a terminal that does, and for terminals, or rules without recursion, that nest too deeply.
        """
        is_recursive, is_deep, n_terminals = False, False, 0
        pending = ["start", *(token.text for body in self.ignored for token in body if token.text in self.definitions)]
        done: set[str] = set()
        path: dict[str, Iterator[str]] = {}
        while path or pending:
            if not path:
                name = pending.pop()
                if name not in done:
                    path[name] = self._references(name)
                    n_terminals = int(self._is_terminal(name))
                continue
            name = next(reversed(path))
            reference = next(path[name], None)
            if reference is None:
                del path[name]
                done.add(name)
                n_terminals -= self._is_terminal(name)
            elif reference in path:
                if self._is_terminal(reference):
                    raise Refused(f"the terminal '{reference}' refers to itself")
                is_recursive = True
            elif reference not in done:
                path[reference] = self._references(reference)
                n_terminals += self._is_terminal(reference)
                is_deep |= len(path) > _MAX_DEPTH
                if n_terminals > _MAX_DEPTH:
                    raise Refused(_TOO_DEEP)
        if is_deep and not is_recursive:
            raise Refused(_TOO_DEEP)
        return is_recursive

    def used(self) -> Iterator[Definition]:
        """The definitions that `start` uses, itself included."""
        names, pending = {"start"}, ["start"]
        for body in self.ignored:
            pending += (token.text for token in body if token.kind in ("rule", "name"))
        while pending:
            name = pending.pop()
            if name in self.definitions or name == "start":
                new = {*self._references(name)} - names
                names |= new | {name}
                pending += new
        return (definition for name, definition in self.definitions.items() if name in names)

    def _is_terminal(self, name: str) -> bool:
        return name in self.definitions and self.definitions[name].is_terminal

    def _references(self, name: str) -> Iterator[str]:
        definition = self.definitions.get(name)
        if definition is None:
            raise Refused(f"the grammar has no rule '{name}'")
        for token in (*definition.body, *((definition.suffix,) if definition.suffix else ())):
            if token.kind in ("rule", "name"):
                if definition.is_terminal and token.kind == "rule":
                    raise Refused(f"line {token.line}: the rule '{token.text}' in a terminal")
                yield token.text


def read(definition: str) -> Grammar:
    """Raises Refused, which names the line."""
    reader = _GrammarReader(tokens_of(definition))
    return reader.grammar()


class _GrammarReader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._grammar = Grammar()

    def grammar(self) -> Grammar:
        while self._at < len(self._tokens):
            token = self._next()
            if token.kind in ("rule", "name"):
                self._definition(token)
            elif token.text == "%ignore":
                self._grammar.ignored.append(self._body(is_terminal=True))
            elif token.text == "%import":
                self._import()
            elif token.text == "%llguidance" and (self._peek(), self._peek(1)) == ("{", "}"):
                self._at += 2  # names only the dialect
            elif token.kind != "newline":
                raise refused(token)
        return self._grammar

    def _next(self) -> Token:
        if self._at == len(self._tokens):
            raise Refused("the grammar ends within a rule")
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self, ahead: int = 0) -> str:
        """The text of a later token; empty at the end."""
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def _expect(self, kind: str, text: str = "") -> Token:
        token = self._next()
        if token.kind != kind or (text and token.text != text):
            raise refused(token)
        return token

    def _add(self, definition: Definition, token: Token) -> None:
        if definition.name in self._grammar.definitions:
            raise Refused(f"line {token.line}: '{definition.name}' is defined twice")
        self._grammar.definitions[definition.name] = definition

    def _definition(self, token: Token) -> None:
        lazy, suffix = self._attributes() if self._peek() == "[" else (False, None)
        self._expect("mark", ":")
        is_terminal = token.kind == "name"
        body = self._body(is_terminal=is_terminal)
        self._add(Definition(token.text.lstrip("!?"), is_terminal, body, lazy, suffix), token)

    def _attributes(self) -> tuple[bool, Token | None]:
        lazy, suffix = False, None
        self._expect("mark", "[")
        while self._peek() != "]":
            key = self._expect("rule")
            if key.text not in _ATTRIBUTES:
                raise refused(key)
            value = None
            if self._peek() == "=":
                self._at += 1
                value = self._next()
            if key.text == "suffix":
                if value is None or value.kind not in ("string", "regex", "name"):
                    raise refused(value or key)
                suffix = value
            lazy |= key.text != "capture"
            if self._peek() == ",":
                self._at += 1
        self._expect("mark", "]")
        return lazy, suffix

    def _import(self) -> None:
        library = self._expect("rule")
        if library.text != "common":
            raise refused(library)
        imported: list[tuple[Token, str]] = []
        if self._peek() == "(":
            self._at += 1
            while self._peek() != ")":
                token = self._expect("name")
                imported.append((token, token.text))
                if self._peek() == ",":
                    self._at += 1
            self._expect("mark", ")")
        else:
            self._expect("mark", ".")
            token = self._expect("name")
            alias = token.text
            if self._peek() == "->":
                self._at += 1
                alias = self._expect("name").text
            imported.append((token, alias))
        for token, alias in imported:
            if token.text not in _COMMON:
                raise refused(token)
            regex = Token("regex", f"/{_COMMON[token.text]}/", token.line)
            self._add(Definition(alias, is_terminal=True, body=(regex,)), token)

    def _body(self, *, is_terminal: bool) -> list[Token]:
        """The rest of a statement, up to the line break that ends it, without aliases."""
        body: list[Token] = []
        closers: list[str] = []
        while self._at < len(self._tokens):
            token = self._next()
            text = token.text
            if token.kind == "newline":
                if self._peek() != "|":
                    break
                continue
            if text == "->":
                self._expect("rule")
                continue
            if text in _BRACKETS:
                closers.append(_BRACKETS[text])
                if len(closers) > _MAX_DEPTH:
                    raise Refused(_TOO_DEEP)
            elif text in (")", "]", "}") and (not closers or closers.pop() != text):
                raise refused(token)
            is_number = self._at < len(self._tokens) and self._tokens[self._at].kind == "number"
            if text == "{" and not is_number and self._peek() != ",":
                raise refused(token)  # a template
            is_logical = text == "&" or (text == "~" and not is_number)
            if token.kind not in _KINDS and text not in _OPERATORS and not (is_logical and is_terminal):
                raise refused(token)
            if is_logical and not is_terminal:
                raise refused(token)
            body.append(token)
        if closers:
            raise Refused(f"'{closers[-1]}' is missing in the grammar")
        return body


def refused(token: Token) -> Refused:
    return Refused(f"line {token.line}: '{token.text.strip() or 'line break'}'")
