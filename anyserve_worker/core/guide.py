"""Guides: the constraint on a text as data, and the interface of a compiled guide. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protos import contract
from protos.contract import TensorSpec


@dataclass(frozen=True, slots=True)
class Guide:
    """A JSON Schema, regular expression or grammar. `tensor` determines the language of `source`."""

    tensor: TensorSpec
    source: str
    lenient: bool = False
    """Whether to ignore parts of a JSON Schema that can't be enforced, instead of refusing the schema."""

    @property
    def language(self) -> str:
        """The name of the tensor that determines how the guide is compiled."""
        return contract.LENIENT_SCHEMA.name if self.lenient else self.tensor.name


class GuideMatcher(Protocol):
    """A compiled guide and its state in the text of one choice. Implemented by `guides.matcher.Matcher`."""

    ended: bool
    """Whether the text is complete, so that no token can follow."""

    def copy(self) -> "GuideMatcher":
        """Returns a matcher in the same state, for another choice."""

    def mask(self, logits: Any) -> None:
        """Sets the logits of tokens that can't come next to -inf. Raises WorkerError if that takes too long."""

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Returns whether these tokens can come next, one after the other. Doesn't advance."""

    def accept(self, token: int) -> None:
        """Advances by one token. Raises WorkerError if the guide does not allow it."""
