"""Files whose bytes are in the request. PURE."""

import binascii
from urllib.parse import unquote_to_bytes

from openai_server.core.prompt_file_errors import InvalidFileData

_WHITESPACE = str.maketrans("", "", "\r\n\t ")


def bytes_of(value: str, field: str) -> bytes:
    """The bytes of base64, or of a data URL. The media type of a data URL is ignored. Raises InvalidFileData."""
    if value[:5].lower() == "data:":
        head, comma, value = value[5:].partition(",")
        if not comma:
            raise InvalidFileData(field, "is a data URL without a comma")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(value)
    try:
        encoded = value.translate(_WHITESPACE) if any(char in value[:200] for char in "\r\n\t ") else value
        return binascii.a2b_base64(encoded.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise InvalidFileData(field, "must be base64, or a data URL") from None
