"""The text of an HTML document."""

from typing import Any

from openai_server.extraction.errors import MissingPackage

_DROPPED = frozenset(["script", "style", "template", "noscript", "svg", "math", "iframe", "object", "head"])
_PARAGRAPHS = frozenset(
    ["h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "blockquote", "table", "ul", "ol", "dl", "figure"]
)
"""Elements with an empty line before and after them."""
_LINES = frozenset(
    [
        *("address", "article", "aside", "body", "caption", "dd", "details", "div", "dt", "fieldset", "figcaption"),
        *("footer", "form", "header", "hr", "html", "legend", "li", "main", "nav", "option", "section", "summary"),
        "tr",
    ]
)
"""Elements on lines of their own."""
_CELLS = frozenset({"td", "th"})


def text_of_html(source: str) -> str:
    """The readable text: without scripts and styles, with blocks on lines of their own, `- ` before the items of lists,
    and ` | ` between the cells of a table's row. Raises MissingPackage."""
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise MissingPackage("beautifulsoup4") from error
    soup = BeautifulSoup(source, "html.parser")
    writer = _Writer()
    if soup.title is not None and (title := soup.title.get_text().strip()):
        writer.text(title, is_pre=False)
        writer.block(2)
    _write(soup, writer)
    return writer.result()


class _Writer:
    """Collects pieces of text, with space between them."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._newlines = 0
        """Newlines to write before the next text."""
        self._space = False
        self._cell = False

    def text(self, text: str, *, is_pre: bool) -> None:
        if not is_pre:
            begins, ends = text[:1].isspace(), text[-1:].isspace()
            text = " ".join(text.split())
            if not text:
                self._space = True
                return
            self._before(begins)
            self._space = ends
        else:
            self._before(False)
        self._pieces.append(text)

    def _before(self, space: bool) -> None:
        if self._newlines:
            if self._pieces:
                self._pieces.append("\n" * self._newlines)
        elif self._cell:
            self._pieces.append(" | ")
        elif (space or self._space) and self._pieces:
            self._pieces.append(" ")
        self._newlines, self._space, self._cell = 0, False, False

    def block(self, newlines: int) -> None:
        self._newlines = max(self._newlines, newlines)
        self._cell = False

    def cell(self) -> None:
        """Begins or ends a cell of a table."""
        if not self._newlines:
            self._cell = True

    def result(self) -> str:
        return "".join(self._pieces)


def _write(soup: Any, writer: _Writer) -> None:
    """Walks through the document without recursion: a hostile one nests as deeply as it likes."""
    from bs4.element import NavigableString, Tag

    n_pre = 0
    stack: list[tuple[Any, bool]] = [(soup, False)]  # an element, and whether its content has been written
    while stack:
        node, is_end = stack.pop()
        if not isinstance(node, Tag):
            if type(node) is NavigableString:  # its subclasses are comments and declarations
                writer.text(str(node), is_pre=n_pre > 0)
            continue
        name = node.name
        if is_end:
            n_pre -= name == "pre"
            _space_around(name, writer)
            continue
        if name in _DROPPED:
            continue
        if name == "br":
            writer.block(1)
            continue
        if name == "img":
            if alt := str(node.get("alt") or "").strip():
                writer.text(alt, is_pre=False)
            continue
        _space_around(name, writer)
        if name == "li":
            writer.text("- ", is_pre=True)
        n_pre += name == "pre"
        stack.append((node, True))
        stack.extend((child, False) for child in reversed(node.contents))


def _space_around(name: str, writer: _Writer) -> None:
    if name in _PARAGRAPHS:
        writer.block(2)
    elif name in _LINES:
        writer.block(1)
    elif name in _CELLS:
        writer.cell()
