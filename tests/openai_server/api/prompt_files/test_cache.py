from openai_server.api.prompt_files.cache import ENTRY_CHARACTERS, FileKey, FileText, TextCache


def key(source: str) -> FileKey:
    return FileKey("a", source, "txt")


def test_the_texts_that_were_used_last_stay() -> None:
    cache = TextCache(2 * (ENTRY_CHARACTERS + 10))
    texts = {name: FileText(name * 10) for name in "abc"}
    cache.put(key("a"), texts["a"])
    cache.put(key("b"), texts["b"])
    assert cache.get(key("a")) is texts["a"]
    cache.put(key("c"), texts["c"])
    assert [cache.get(key(name)) for name in "abc"] == [texts["a"], None, texts["c"]]
    cache.put(key("a"), texts["b"])
    assert cache.get(key("a")) is texts["b"]
    assert cache.get(FileKey("b", "a", "txt")) is None


def test_many_short_texts_have_a_limit() -> None:
    cache = TextCache(100 * ENTRY_CHARACTERS)
    for n in range(1000):
        cache.put(key(str(n)), FileText("x"))
    assert sum(cache.get(key(str(n))) is not None for n in range(1000)) == 99
