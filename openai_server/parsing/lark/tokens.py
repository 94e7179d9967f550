"""Splits a grammar in llguidance's dialect of Lark into tokens. PURE."""

import re
from typing import NamedTuple

from openai_server.parsing.lark.characters import Refused

_TOKEN = re.compile(
    r"""
      (?P<comment> (?:\#|//)[^\n]* | [ \t\r]+ )
    | (?P<newline> \n )
    | (?P<string>  "(?:\\(?:["\\/bfnrt]|u[a-fA-F0-9]{4}|x[a-fA-F0-9]{2})|[^"\\\x00-\x1f\x7f])*"i? )
    | (?P<regex>   /(?:\\.|[^/\\])+/[imslux]* )
    | (?P<rule>    [!?]{0,2}_?[a-z][_a-z0-9-]* )
    | (?P<name>    _?[A-Z][_A-Z0-9-]* )
    | (?P<number>  [+-]?[0-9]+ )
    | (?P<special> <[^<>\s]+> )
    | (?P<keyword> %[a-z]+ | @[a-zA-Z0-9_-]+ )
    | (?P<mark>    -> | \.\. | :: | [:,.()\[\]{}~|&=?+*] )
    """,
    re.VERBOSE | re.DOTALL,
)


MAX_TOKENS = 20_000
"""Tokens of a grammar. 40 ms of work."""


class Token(NamedTuple):
    kind: str
    text: str
    line: int
    """Counted from 1."""


def tokens_of(grammar: str) -> list[Token]:
    """The tokens without comments and whitespace; several line breaks are one token. Raises Refused."""
    tokens: list[Token] = []
    at, line = 0, 1
    while at < len(grammar):
        match = _TOKEN.match(grammar, at)
        if match is None:
            raise Refused(f"line {line}: '{grammar[at : at + 20].splitlines()[0]}' is not part of a grammar")
        kind = str(match.lastgroup)
        if kind != "comment" and not (kind == "newline" and (not tokens or tokens[-1].kind == kind)):
            tokens.append(Token(kind, match[0], line))
            if len(tokens) > MAX_TOKENS:
                raise Refused(f"it has more than {MAX_TOKENS} literals, names and operators")
        line += match[0].count("\n")
        at = match.end()
    return tokens
