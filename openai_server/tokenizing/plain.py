"""Turns a `tokenizer.json` into one that recognizes no added token, for plain text. PURE."""

from collections.abc import Iterable
from typing import Any

_HIDDEN = "\ufdd0"
"""A noncharacter that begins the names of hidden tokens, which no text contains as a whole word."""


def without_added_tokens(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A changed copy, in which the ids of the other tokens are the same."""
    texts = {token["content"] for token in tokenizer.get("added_tokens") or ()}
    model = _hidden(tokenizer["model"], {text for text in texts if text.strip()})  # whitespace isn't markup
    return {**tokenizer, "added_tokens": [], "post_processor": None, "model": model}


def _hidden(model: dict[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """The model with other names for these tokens, since a text may contain a token of the vocabulary as a whole.

    Tokens of one character, and those that merges build, are kept: ordinary text needs them.
    """
    built = {part for pair in model.get("merges") or () for part in _merged(pair)}
    names = {text: f"{_HIDDEN}{text}" for text in texts if len(text) > 1 and text not in built}
    changed = dict(model)
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        changed["vocab"] = {names.get(text, text): id for text, id in vocabulary.items()}
    else:  # of Unigram: pairs of a token and its score, in the order of the ids
        changed["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if (unknown := model.get("unk_token")) in names and isinstance(vocabulary, dict):
        changed["unk_token"] = names[unknown]
    return changed


def _merged(pair: str | list[str]) -> tuple[str, str, str]:
    first, second = pair.split(" ", 1) if isinstance(pair, str) else pair
    return first, second, first + second
