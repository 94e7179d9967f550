"""Plain English in everything that people read: `make lint` fails on each word or name that the tables below ban.

Prose is docstrings, comments, string literals of four words or more (except in tests, where they are data), names of
tests, Markdown outside of code, and the lines of other text files. Names are those that Python code binds: variables,
arguments, attributes, functions and classes. A comment `plain-english: ok` at the end of a line exempts that line, or
the docstring that ends there; a needless exemption fails.

The folders and files in plain_english_pending.txt are not checked yet. `--all` checks them too. `--counts` prints the
findings by folder and rule, and exits with 0.
"""

import ast
import io
import os
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PENDING = ROOT / "scripts" / "plain_english_pending.txt"
GENERATED = re.compile(
    r"protos/grpc_predict_v2.*|benchmarks/results/.*|openai_server/api/docs/swagger-ui/.*|tests/e2e/minilm_reference\.json"
)
SUFFIXES = frozenset(
    (
        *(".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".h", ".cmake"),
        *(".js", ".mjs", ".css", ".html", ".java", ".json"),
    )
)
WITHOUT_SUFFIX = {"Makefile", "Dockerfile", ".ci/run", ".dockerignore", ".gitignore"}
EXEMPTION = re.compile(r"(?:#|//|<!--) ?plain-english: ok(?: -->)?$")
_PEOPLE = (
    r"\b(?:users?|persons?|people|readers?|operators?|newcomers?|engineers?|developers?|administrators?|maintainers?"
    r"|reviewers?|authors?|attackers?|owners?|anyone|everyone|you)\b"
)
_DOCUMENTS = (
    r"\b(?:md|README|docs?|documentation|page|manual|specification|standard|RFC \d+|OpenAPI|docstring|comment|message"
    r"|warning|error|name)`?\W+says\b"
)
PEOPLE = re.compile(_PEOPLE, re.IGNORECASE)
PEOPLE_OR_DOCUMENTS = re.compile(f"{_PEOPLE}|{_DOCUMENTS}", re.IGNORECASE)
PEOPLE_OR_CAN_TELL = re.compile(rf"{_PEOPLE}|\b(?:can|can't|cannot|could|couldn't) (?:not )?tell\b", re.IGNORECASE)
SO_THAT = re.compile(r"\bso (?:many|much)\b[^.;:]{0,60}\bthat\b")
SENTENCE_END = re.compile(r"[.:;!?][\"')*`]*\s|\||\n\s*\n")


@dataclass(frozen=True)
class Rule:
    name: str
    pattern: str
    """Ignores case unless `cased`. A space in it stands for any white space, such as the end of a line."""
    instead: str
    allowed: re.Pattern[str] | None = None
    """Exempts each sentence in which it is found."""
    kinds: tuple[str, ...] = ("docstring", "comment", "string", "text")
    cased: bool = False


RULES = (
    Rule("genitive", r"(?:\A|[.:;!?] )Of (?!course)", "begin with the subject, as 'Seconds between …'", cased=True),
    Rule("relative", r"\A(?:Who|Whom|Whose|Whoever)\b", "begin with the subject of a main clause", cased=True),
    Rule(
        *("clause", r"\A(?:What\b|Where (?:[^,.]|\.(?=\w))+(?:\.\s|\.?\Z))", "begin with a noun or a verb"),
        kinds=("docstring",),
        cased=True,
    ),
    Rule("who", r"\b(?:who|whom|whoever|those who)\b", "'that' or 'which': things are not people", PEOPLE),
    Rule("told", r"\btold\b", "'passed', 'sent', 'reported', 'set', 'distinguished'", PEOPLE),
    Rule("said", r"\bsaid\b", "'reported', 'sent', 'set', 'stated'", PEOPLE),
    Rule("tells", r"\b(?:tells?|telling)\b", "'reports', 'sends', 'shows', 'distinguishes'", PEOPLE_OR_CAN_TELL),
    Rule("says", r"\bsays\b|(?:\bnot|n't) say\b", "'reports', 'states', 'contains', 'sets'", PEOPLE_OR_DOCUMENTS),
    Rule("asks", r"\b(?:ask|asks|asked|asking)\b", "'requests', 'checks', 'queries', 'requires'", PEOPLE),
    Rule("knows", r"\bknows\b|\b(?:do|does|did)(?: not|n't) know\b", "'has', 'supports', 'recognizes'", PEOPLE),
    Rule("so many", r"(?<!as )\bso (?:many|much)\b", "the number, its name, or 'this many'", SO_THAT),
    Rule("such a", r"\bsuch a (?:place|one|thing|case|way)\b", "name the thing"),
    Rule("is to be", r"\b(?:is|are|was|were) to be\b", "'must be', 'should be', or the active voice"),
    Rule("becomes of", r"\bbecom(?:es?|ing) of\b|\bbecame of\b", "'outcome', 'result', 'happens to'"),
    Rule("takes down", r"\btak(?:es?|ing) down\b|\btook down\b", "'records'"),
    Rule(
        "lets in", r"\blet(?:s|ting)? (?:\w+ ){0,2}in\b(?! (?:\w+ )?(?:order|place|turn|time))", "'admits', 'accepts'"
    ),
    Rule("nobody", r"\b(?:nobody|somebody)\b", "name the client, the caller or the thread, or 'nothing'"),
    Rule("for ever", r"\bfor ever\b", "'forever', 'without end'"),
    Rule("makes of", r"\bma(?:kes?|de|king) of (?:it|them|a|an|the)\b", "'turns … into', 'builds … from'"),
    Rule("archaic", r"\b(?:thereof|whereof|wherein|hitherto|lest|whatsoever|once more)\b", "'in which', 'again'"),
)

NAMES = {
    **dict.fromkeys(("told", "said", "made", "given"), "the noun that it holds: payload, usage, response, headers"),
    **dict.fromkeys(("one", "each", "who", "what"), "the noun that it holds: request, sequence, caller"),
    **dict.fromkeys(("asked", "asks", "tells", "says"), "the noun that it holds: request, fields"),
    **dict.fromkeys(("say", "tell", "ask"), "log, report, send, query"),
    "Visit": "RequestAccess",
    "Telling": "AnswerOptions",
    "Reading": "AnswerFormat",
    "Source": "ResolvedModel",
    "takes": "input_names",
    "ours": "server_inputs, or what it holds",
    "generated_if_said": "n_to_send",
    "most_tokens": "token_limit",
    "patience": "ping_interval, queue_timeout, idle_limit",
    "impatient": "frequent_pings",
    "doubt": "recheck_readiness",
    "relieve": "make_room",
    "Texts": "ChoiceDecoders",
    "End": "ChoiceEnd",
    "Object": "JsonObject",
    "Http": "HttpStatus",
    "watched": "file_watch",
    "delivery": "streaming",
    "Mark": "ReasoningCounter",
    "Marks": "ReasoningSpan",
    "Markers": "ReasoningTags",
    **dict.fromkeys(("MOST", "MERGE", "AWAY", "PAYS", "LOOK"), "a noun and its unit"),
}


@dataclass(frozen=True)
class Passage:
    """Prose that belongs together. `text` has the line breaks of the file, from line `line` on."""

    line: int
    text: str
    kind: str
    last: int
    """Its last line, where a comment may stand that exempts all of it."""


@dataclass(frozen=True, order=True)
class Finding:
    line: int
    rule: str
    words: str
    instead: str


# ---- Passages


def _comments(lines: Iterable[tuple[int, bool, str]]) -> Iterator[Passage]:
    """One passage for each comment, or for neighbouring lines that are comments alone.

    `lines` has the number of each comment's line, whether it is `alone` there, and its text.
    """
    first, texts = 0, list[str]()
    for line, alone, text in lines:
        if texts and (not alone or line != first + len(texts)):
            yield Passage(first, "\n".join(texts), "comment", first + len(texts) - 1)
            texts = []
        if not alone:
            yield Passage(line, text, "comment", line)
            continue
        first = first if texts else line
        texts.append(text)
    if texts:
        yield Passage(first, "\n".join(texts), "comment", first + len(texts) - 1)


def _string(node: ast.expr) -> str | None:
    """The text of a literal, `{}` for what an f-string fills in; None if it is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_string(part) or "{}" for part in node.values)
    return None


def python_passages(source: str, nodes: Iterable[ast.AST], *, strings: bool) -> Iterator[Passage]:
    """Docstrings, including those of attributes, comments, names of tests, and string literals if `strings`."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from _comments(
        (token.start[0], not token.line[: token.start[1]].strip(), token.string.lstrip("#:! "))
        for token in tokens
        if token.type == tokenize.COMMENT
    )
    inner = set[ast.AST]()
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            inner.update(node.values)
        if isinstance(node, ast.Expr) and (text := _string(node.value)) is not None:
            inner.add(node.value)
            yield Passage(node.lineno, text, "docstring", node.end_lineno or node.lineno)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            sentence = node.name.removeprefix("test_").replace("_", " ").capitalize()
            yield Passage(node.lineno, sentence, "string", node.lineno)
        elif isinstance(node, ast.expr) and node not in inner and strings:
            text = _string(node)
            if text is not None and len(re.findall(r"[A-Za-z']+(?=\s|$)", text)) >= 4:
                yield Passage(node.lineno, text, "string", node.end_lineno or node.lineno)


def markdown_passages(text: str) -> Iterator[Passage]:
    """Paragraphs, list items and rows of tables, without blocks of code."""
    first, lines, fenced = 0, list[str](), False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        starts = re.match(r"\s*(?:[-*] |\d+\. |\||#|>)", line)
        if lines and (starts or fence or fenced or not line.strip()):
            yield Passage(first, "\n".join(lines), "text", first + len(lines) - 1)
            lines = []
        fenced = fenced != fence
        if line.strip() and not fenced and not fence:
            first = first if lines else number
            lines.append(re.sub(r"^\s*(?:[-*] |\d+\. |#+ |> )", "", line))


def other_passages(text: str) -> Iterator[Passage]:
    """Comments that begin with # or // and span lines, and every other line by itself."""
    rest = []
    blocks = []
    for number, line in enumerate(text.splitlines(), 1):
        if comment := re.match(r"\s*(?:#+|//+|/?\*+)!? ?(.*)", line):
            blocks.append((number, True, comment[1]))
        else:
            rest.append(Passage(number, line, "text", number))
    yield from _comments(blocks)
    yield from rest


# ---- Findings


def _bound_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def names(nodes: Iterable[ast.AST]) -> Iterator[Finding]:
    for line, name in _bound_names(nodes):
        if instead := NAMES.get(name.lstrip("_")):
            yield Finding(line, "name", name, instead)


def _sentence(text: str, start: int, end: int) -> str:
    begin = max((match.end() for match in SENTENCE_END.finditer(text, 0, start)), default=0)
    stop = SENTENCE_END.search(text, end)
    return text[begin : stop.start() + 1 if stop else len(text)]


def prose(passage: Passage) -> Iterator[Finding]:
    """Findings in a passage. Code in backticks is left out."""
    text = re.sub(r"`[^`]*`", lambda code: re.sub(r"[^\n]", "`", code[0]), passage.text)
    text = re.sub(r"\n[ \t]+", "\n", text)
    indent = len(text) - len(text.lstrip())
    for rule in RULES:
        if passage.kind not in rule.kinds:
            continue
        pattern = re.compile(rule.pattern.replace(" ", r"\s"), 0 if rule.cased else re.IGNORECASE)
        for match in pattern.finditer(text[indent:]):
            start, end = match.start() + indent, match.end() + indent
            sentence = re.sub(r"\s+", " ", _sentence(text, start, end))
            if rule.allowed and rule.allowed.search(sentence):
                continue
            yield Finding(
                passage.line + text.count("\n", 0, start), rule.name, " ".join(match[0].split()), rule.instead
            )


def check(path: str, text: str) -> tuple[list[Finding], int]:
    """Findings in a file, and the number of its exemptions."""
    found = list[tuple[Finding, int]]()  # with the last line of the passage
    if path.endswith(".py"):
        nodes = list(ast.walk(ast.parse(text)))
        passages = python_passages(text, nodes, strings=not path.startswith("tests/"))
        found += [(finding, finding.line) for finding in names(nodes)]
    else:
        passages = markdown_passages(text) if path.endswith(".md") else other_passages(text)
    found += [(finding, passage.last) for passage in passages for finding in prose(passage)]
    exempt = {number for number, line in enumerate(text.splitlines(), 1) if EXEMPTION.search(line)}
    needed = exempt & {line for finding, last in found for line in (finding.line, last)}
    kept = {finding for finding, last in found if not {finding.line, last} & exempt}
    kept |= {
        Finding(line, "exemption", "plain-english: ok", "remove it: nothing here needs it") for line in exempt - needed
    }
    return sorted(kept), len(needed)


# ---- The repository


def pending() -> list[str]:
    return PENDING.read_text().split()


def files() -> list[str]:
    """Paths of what is checked, without the folders that tools make."""
    found = []
    for folder, folders, contents in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name == ".ci" or not re.match(r"\.|build$|dist$|shared$|__pycache__$", name)
        ]
        paths = [Path(folder, name).relative_to(ROOT).as_posix() for name in contents]
        found += [path for path in paths if Path(path).suffix in SUFFIXES or path in WITHOUT_SUFFIX]
    return sorted(path for path in found if not GENERATED.fullmatch(path))


def folder_of(path: str) -> str:
    """The unit of the pending list: a folder of depth two at most, or a file at the root."""
    return "/".join(path.split("/")[:-1][:2]) or path


def main(arguments: list[str]) -> None:
    skipped = [] if {"--all", "--counts"} & set(arguments) else pending()
    n_found, n_exempt = 0, 0
    counts = Counter[tuple[str, str]]()
    for path in files():
        if folder_of(path) in skipped:
            continue
        found, exempt = check(path, (ROOT / path).read_text())
        n_found += len(found)
        n_exempt += exempt
        counts.update((folder_of(path), finding.rule) for finding in found)
        if "--counts" not in arguments:
            for finding in found:
                print(f"{path}:{finding.line}: [{finding.rule}] {finding.words!r}: {finding.instead}")
    if "--counts" in arguments:
        for folder in sorted({folder for folder, _ in counts}):
            rules = {rule: number for (of, rule), number in counts.items() if of == folder}
            listed = ", ".join(f"{rule} {number}" for rule, number in sorted(rules.items(), key=lambda rule: -rule[1]))
            print(f"{folder}: {sum(rules.values())} ({listed})")
        for folder in sorted(set(pending()) - {folder for folder, _ in counts}):
            print(f"{folder}: 0, so take it off {PENDING.name}")
    print(f"plain English: {n_found} findings, {n_exempt} exemptions, {len(skipped)} folders pending")
    if n_found and "--counts" not in arguments:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
