"""Guides: what a text has to match, as data, and the state of one that is applied to a choice. PURE."""

from dataclasses import dataclass
from typing import Any, Protocol

from protos import contract
from protos.contract import TensorSpec


@dataclass(frozen=True, slots=True)
class Guide:
    """A JSON Schema, regular expression or grammar. `tensor` names the language in which `source` is written."""

    tensor: TensorSpec
    source: str
    lenient: bool = False
    """Parts of a JSON Schema that can't be enforced are left out, rather than refused."""

    @property
    def language(self) -> str:
        """The name of the tensor that determines how the guide is compiled."""
        return contract.LENIENT_SCHEMA.name if self.lenient else self.tensor.name


class GuideMatcher(Protocol):
    """A compiled guide on the text of one choice. Implemented by `guides.matcher.Matcher`."""

    ended: bool
    """Nothing can follow."""

    def copy(self) -> "GuideMatcher":
        """Returns one for another choice, from where this one is."""

    def mask(self, logits: Any) -> None:
        """Makes every token impossible that cannot come next. Raises WorkerError if that takes too much."""

    def accept(self, token: int) -> None:
        """Moves on by one token. Raises WorkerError if the guide does not allow it."""
