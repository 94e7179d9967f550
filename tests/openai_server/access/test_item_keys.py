"""The keys that seal items: from options, from a file, or made at the start."""

from pathlib import Path

import pytest

from openai_server.access.item_keys import MAX_BYTES, BadItemKeys, ItemKeys, read
from openai_server.core.sealing import KEY_BYTES, key_of

A, B, C = ("abc"[i] * 40 for i in range(3))


def test_the_keys_of_options_come_before_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# rotated in May\n\n  {B}  \n{C}\n")
    assert ItemKeys([A], path).keys == [key_of(A), key_of(B), key_of(C)]


def test_without_keys_a_new_one_is_made_for_each_server() -> None:
    [first], [second] = ItemKeys().keys, ItemKeys().keys
    assert first != second
    assert len(first) == KEY_BYTES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "there is no key in it"),
        (b"# only a comment\n", "there is no key in it"),
        (A.encode() + b"\nshort-secret\n", "line 2 has fewer than 32 characters"),
        (b"\xff" * 40, "it is not UTF-8"),
        (b"x" * (MAX_BYTES + 1), f"it is larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_bad_file_is_refused_without_its_content(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(BadItemKeys) as caught:
        read(path)
    assert str(caught.value) == problem


def test_a_missing_file_and_a_short_option_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadItemKeys, match="can't read it: No such file or directory"):
        read(tmp_path / "none")
    with pytest.raises(BadItemKeys) as caught:
        ItemKeys([A, "short-secret"])
    assert str(caught.value) == "key 2 has fewer than 32 characters"
