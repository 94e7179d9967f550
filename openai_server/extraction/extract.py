"""The text of a file of any kind. Takes time and memory that a hostile file decides on."""

from openai_server.extraction.errors import IS_EMPTY, Unreadable
from openai_server.extraction.kinds import Kind, cleaned, decoded, kind_of


def extracted(data: bytes, name: str, max_bytes: int) -> str:
    """The text of the file, without control characters. Raises Unreadable, also if it has more than `max_bytes` in
    UTF-8, and MissingPackage."""
    match kind_of(data, name):
        case Kind.PDF:
            from openai_server.extraction.pdf import text_of_pdf

            text = cleaned(text_of_pdf(data, max_bytes))
        case Kind.HTML:
            from openai_server.extraction.html import text_of_html

            text = text_of_html(decoded(data))
        case Kind.TEXT:
            text = decoded(data)
    text = text.strip("\n")
    if not text.strip():
        raise Unreadable(IS_EMPTY)
    if len(text) > max_bytes or len(text.encode()) > max_bytes:
        raise Unreadable(f"has more than {max_bytes} bytes of text, this server's limit")
    return text
