"""A form (multipart/form-data) with one file, read as it arrives: only the small fields are kept. PURE.

The fields may come in any order.
"""

import logging
from collections.abc import Collection

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from anyserve_common.text import shortened
from openai_server.api.files.disposition import kind_of, parameters
from openai_server.api.schemas.tables import missing
from openai_server.core.errors import APIError, InvalidRequest

MAX_PARTS = 16
MAX_FIELD_BYTES = 1024
"""Maximum length of the value of a field that is no file."""
MAX_HEADERS, MAX_HEADER_BYTES = 8, 16 << 10
"""Headers of one part, and bytes of each of them."""
MAX_BOUNDARY_BYTES = 70
MAX_BOUNDARIES = 1000
"""Places at which a form may have its boundary. A content must not contain it (RFC 2046, 5.1.1), and each place takes
about as much time as 64 KiB of other content."""
OVERHEAD_BYTES = 64 << 10
"""Maximum bytes of a form besides the file."""
MAX_NAME_CHARACTERS = 1024
"""Maximum length of the name of a file."""

_silent = logging.getLogger(f"{__name__}.parser")
_silent.disabled = True


class Form:
    """`file` is the name of the field with the file, `fields` are those of the others."""

    def __init__(self, content_type: bytes, *, file: str, fields: Collection[str]) -> None:
        """Raises APIError with status 415, and InvalidRequest for a wrong boundary."""
        self._file, self._allowed = file, fields
        self.fields: dict[str, str] = {}
        """The values of the fields that have arrived, except the file."""
        self.filename: str | None = None
        """The name of the file; None before it arrives."""
        boundary = _boundary(content_type)
        self._delimiter = b"\r\n--" + boundary
        self._n_bytes = self._n_boundaries = self._n_parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name, self._header_value = b"", b""
        self._name = ""
        self._value: bytearray | None = None
        """Value of the field that is being read; None for the file."""
        self._content: list[bytes] = []
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        self._parser.logger = _silent

    def feed(self, data: bytes) -> bytes:
        """Returns the bytes of the file that were in the next piece of the body. Raises InvalidRequest."""
        self._content = []
        self._n_boundaries += data.count(self._delimiter)
        if self._n_boundaries > MAX_BOUNDARIES:
            raise _malformed("its content has the boundary")
        if not self._is_complete:  # what follows the form has no meaning
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise self._problem(error) from None
        self._n_bytes += len(data)
        return b"".join(self._content)

    def end(self) -> str:
        """Must be called at the end of the body. Returns the name of the file. Raises InvalidRequest."""
        if not self._is_complete:
            raise _malformed("it ends before its last boundary")
        if self.filename is None:
            raise missing(self._file)
        return self.filename

    def _problem(self, error: FormParserError) -> InvalidRequest:
        """The parser's messages are about its own state, except those about its limits."""
        if "header size" in str(error):
            return _malformed(f"a header of a field has more than {MAX_HEADER_BYTES} bytes")
        if "header count" in str(error):
            return _malformed(f"a field has more than {MAX_HEADERS} headers")
        if not self._n_parts:
            return _malformed("it doesn't begin with the boundary of its Content-Type")
        return _malformed(f"it is wrong at byte {self._n_bytes + getattr(error, 'offset', 0)}")

    # ---- Callbacks of the parser

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} fields.")
        self._headers = {}
        self._header_name = self._header_value = b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers.setdefault(self._header_name.lower(), self._header_value)
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        found = parameters(disposition)
        if kind_of(disposition) != b"form-data" or "name" not in found:
            raise _malformed("a part has no header `Content-Disposition: form-data` with a name")
        name = self._name = found["name"]
        if name != self._file and name not in self._allowed:
            raise InvalidRequest(f"Unrecognized request argument supplied: {shortened(name)}", param=name)
        if name in self.fields or (name == self._file and self.filename is not None):
            raise InvalidRequest(f"'{name}' is given twice.", param=name, code="duplicate_parameter")
        if name != self._file:
            self._value = bytearray()
            self.fields[name] = ""
            return
        self._value = None
        self.filename = _filename(name, found.get("filename", ""))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self._content.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"'{self._name}' has more than {MAX_FIELD_BYTES} bytes.", param=self._name)

    def _end_part(self) -> None:
        if self._value is None:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"'{self._name}' is no text in UTF-8.", param=self._name) from None

    def _end(self) -> None:
        self._is_complete = True


def _filename(field: str, name: str) -> str:
    """Raises InvalidRequest."""
    if not name:
        raise InvalidRequest(f"'{field}' must be a file: its part of the form needs a filename.", param=field)
    return checked_name(name, field)


def checked_name(name: str, param: str) -> str:
    """The name of a file as it can be stored: PostgreSQL has no NUL. Raises InvalidRequest."""
    if len(name) > MAX_NAME_CHARACTERS:
        raise InvalidRequest(
            f"The name of the file in '{param}' has more than {MAX_NAME_CHARACTERS} characters.", param=param
        )
    return name.replace("\0", "\ufffd")


def _boundary(content_type: bytes) -> bytes:
    if kind_of(content_type) != b"multipart/form-data":
        raise APIError(415, "The request body must be a form (Content-Type: multipart/form-data).")
    boundary = parameters(content_type).get("boundary", "").encode()
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES or b"\r" in boundary or b"\n" in boundary:
        raise InvalidRequest(f"The Content-Type needs a boundary of 1 to {MAX_BOUNDARY_BYTES} bytes.")
    return boundary


def _malformed(problem: str) -> InvalidRequest:
    return InvalidRequest(f"The request body is no valid form (multipart/form-data): {problem}.", code="invalid_form")
