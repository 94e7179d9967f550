"""Seals text for clients, which keep it and send it back: reasoning, and summaries of conversations.

PURE. Sealed text is encrypted and authenticated (AES-256-GCM), and bound to its kind and to its model: a client can
neither read nor change it, nor use it with another model. Servers with the same keys can open each other's text.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from os import urandom
from typing import Literal

import orjson

Kind = Literal["reasoning", "compaction"]
Keys = Sequence[bytes]
"""Each of KEY_BYTES. The first one seals, all of them open."""

Seal = Callable[[str], str]
"""Seals texts of one kind for one model."""

KEY_BYTES = 32
_VERSION = "as1."
"""Prefix of sealed text. Another form will have another one."""
_NONCE_BYTES = 12


class NotOpened(Exception):
    """The text wasn't sealed with one of the keys, for this kind and model."""


def is_sealed(text: str) -> bool:
    """Whether the text has the form of sealed text, of this server or another one."""
    return text.startswith(_VERSION)


def key_of(secret: str) -> bytes:
    """The key that belongs to a secret of at least 32 random characters."""
    return sha256(b"anyserve item key\0" + secret.encode()).digest()


class Sealer:
    """`keys` returns the current keys."""

    def __init__(self, keys: Callable[[], Keys]) -> None:
        self._keys = keys

    def seal(self, text: str, kind: Kind, model: str) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # few requests need it

        nonce = urandom(_NONCE_BYTES)
        sealed = AESGCM(self._keys()[0]).encrypt(nonce, text.encode(errors="surrogatepass"), _bound_to(kind, model))
        return _VERSION + urlsafe_b64encode(nonce + sealed).decode()

    def sealing(self, kind: Kind, model: str) -> Seal:
        """The function that seals texts of this kind for this model."""
        return lambda text: self.seal(text, kind, model)

    def open(self, sealed: str, kind: Kind, model: str) -> str:
        """Raises NotOpened."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        text = sealed.removeprefix(_VERSION)
        try:
            data = urlsafe_b64decode(text)
        except ValueError:
            raise NotOpened from None
        if _VERSION + urlsafe_b64encode(data).decode() != sealed:  # the decoder skips unknown characters
            raise NotOpened
        for key in self._keys():
            try:
                opened = AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound_to(kind, model))
            except (InvalidTag, ValueError):  # ValueError: the nonce is too short
                continue
            return opened.decode(errors="surrogatepass")
        raise NotOpened


def _bound_to(kind: Kind, model: str) -> bytes:
    return orjson.dumps([_VERSION, kind, model])
