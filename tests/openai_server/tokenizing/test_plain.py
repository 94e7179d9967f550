from typing import Any

from openai_server.tokenizing.plain import without_added_tokens

ADDED = [{"id": id, "content": content} for id, content in enumerate(["<unk>", "<s>", "  ", "|", "ab"])]


def model_of(**model: Any) -> Any:
    changed = without_added_tokens({"added_tokens": ADDED, "post_processor": {"type": "x"}, "model": model, "other": 1})
    assert (changed["added_tokens"], changed["post_processor"], changed["other"]) == ([], None, 1)
    return changed["model"]


def test_tokens_of_a_vocabulary_get_names_that_no_text_has() -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "  ": 2, "|": 3, "ab": 4, "a": 5, "b": 6}
    model = model_of(type="BPE", vocab=vocabulary, unk_token="<unk>", merges=[])
    assert model["vocab"] == {"\ufdd0<unk>": 0, "\ufdd0<s>": 1, "  ": 2, "|": 3, "\ufdd0ab": 4, "a": 5, "b": 6}
    assert model["unk_token"] == "\ufdd0<unk>"


def test_tokens_that_merges_build_are_kept() -> None:
    vocabulary = {"<s>": 0, "ab": 1, "abc": 2}
    for merges in ([["a", "b"], ["ab", "c"]], ["a b", "ab c"]):
        model = model_of(type="BPE", vocab=vocabulary, unk_token=None, merges=merges)
        assert model["vocab"] == {"\ufdd0<s>": 0, "ab": 1, "abc": 2}


def test_pieces_of_unigram_keep_their_places() -> None:
    pieces = [["<unk>", 0.0], ["<s>", 0.0], ["a", -1.5]]
    model = model_of(type="Unigram", vocab=pieces, unk_id=0)
    assert model["vocab"] == [["\ufdd0<unk>", 0.0], ["\ufdd0<s>", 0.0], ["a", -1.5]]
    assert model["unk_id"] == 0
