"""Sealed text opens with the same keys, for the same kind and model, and only then."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.core.sealing import NotOpened, Sealer, key_of

OLD, NEW = key_of("o" * 32), key_of("n" * 32)
MODEL = "smollm2"


def sealer(*keys: bytes) -> Sealer:
    return Sealer(lambda: keys)


@given(st.text(alphabet=st.characters(exclude_categories=())), st.sampled_from(["reasoning", "compaction"]))
def test_any_text_opens_again(text: str, kind: str) -> None:
    sealed = sealer(OLD).seal(text, kind, MODEL)  # type: ignore[arg-type]
    assert sealed.isascii()
    assert sealer(OLD).open(sealed, kind, MODEL) == text  # type: ignore[arg-type]


def test_the_first_key_seals_and_all_keys_open() -> None:
    before, rotated = sealer(OLD), sealer(NEW, OLD)
    assert rotated.open(before.seal("a", "reasoning", MODEL), "reasoning", MODEL) == "a"
    with pytest.raises(NotOpened):
        before.open(rotated.seal("a", "reasoning", MODEL), "reasoning", MODEL)


def test_sealed_text_is_never_the_same_twice_and_hides_its_content() -> None:
    first, second = (sealer(OLD).seal("secret" * 10, "reasoning", MODEL) for _ in range(2))
    assert first != second
    assert "secret" not in first


def test_text_opens_only_for_its_kind_and_model() -> None:
    sealed = sealer(OLD).seal("a", "reasoning", MODEL)
    for kind, model in (("compaction", MODEL), ("reasoning", "gemma")):
        with pytest.raises(NotOpened):
            sealer(OLD).open(sealed, kind, model)  # type: ignore[arg-type]


# The nonce makes every sealed text another one, of the same length. What is drawn must not depend on it.
LENGTH = len(sealer(OLD).seal("some text", "reasoning", MODEL))


@given(st.integers(0, LENGTH - 1), st.lists(st.sampled_from("Ab9-_.é"), min_size=2, max_size=2, unique=True))
def test_changed_text_does_not_open(at: int, characters: list[str]) -> None:
    sealed = sealer(OLD).seal("some text", "reasoning", MODEL)
    other = next(character for character in characters if character != sealed[at])
    with pytest.raises(NotOpened):
        sealer(OLD).open(sealed[:at] + other + sealed[at + 1 :], "reasoning", MODEL)


@given(st.text(max_size=80))
def test_other_text_does_not_open(text: str) -> None:
    for sealed in (text, "as1." + text):
        with pytest.raises(NotOpened):
            sealer(OLD).open(sealed, "reasoning", MODEL)


@pytest.mark.slow
def test_the_library_is_imported_when_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, openai_server.app\n"
        "assert 'cryptography' not in sys.modules\n"
        "from openai_server.core.sealing import Sealer, key_of\n"
        "Sealer(lambda: [key_of('k' * 32)]).seal('a', 'reasoning', 'm')\n"
        "assert 'cryptography' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
