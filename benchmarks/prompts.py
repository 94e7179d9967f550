"""Prompts of the workloads: random prose that is the same in every run. PURE."""

from __future__ import annotations

import random

# Words that are one token in most vocabularies.
WORDS = tuple(
    """the a one two all some every old new small large good long short first last white black green blue red
water river stone house garden street city country world morning evening night summer winter light voice music
book letter story question answer word name picture table window door room road train ship bridge market school
teacher child mother father friend people king doctor horse dog bird tree flower field mountain island sea sky sun
moon star fire snow rain wind time year day hour idea reason number part side end way life work game power food
bread milk fish gold silver paper glass wood iron is was has had sees finds keeps gives takes makes knows says
tells asks shows brings holds leaves opens turns follows and but or with without under over near behind before
after because while where when into from for about between through across against""".split()  # noqa: SIM905
)

WORDS_A_TOKEN = 0.92
"""Words per token of these sentences, with their punctuation."""


def prose(seed: str, tokens: int) -> str:
    """Sentences of about `tokens` tokens; different seeds begin with different words."""
    random_ = random.Random(seed)
    words: list[str] = []
    left = 0
    for _ in range(max(1, round(tokens * WORDS_A_TOKEN))):
        word = random_.choice(WORDS)
        if left == 0:
            words.append(word.capitalize())
            left = random_.randint(7, 14)
        else:
            left -= 1
            words.append(word + ("." if left == 0 else ""))
    return " ".join(words)


def short(seed: str, number: int, tokens: int = 75) -> str:
    """A distinct prompt, which shares no prefix with an earlier one in a cache."""
    hero = random.Random(number).choice(WORDS)
    return f"{prose(f'{seed} {number}', tokens - 11)}\n\nOnce upon a time there was a {hero} who"  # plain-english: ok


def shared(seed: str, number: int, tokens: int) -> str:
    """Prompts of one seed begin with the same `tokens` tokens, and each ends with its own question."""
    return f"{prose(seed, tokens)}\n\n{prose(f'{seed} question {number}', 10)}\n\nA long answer:"
