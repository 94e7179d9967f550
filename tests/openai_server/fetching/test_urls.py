import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.fetching.urls import BadUrl, is_allowed, parsed, parsed_prefix

PREFIX = "https://files.example.com/public/"


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        (PREFIX, "https://files.example.com/public/a.pdf"),
        (PREFIX, "HTTPS://Files.Example.COM/public/"),
        (PREFIX, "https://files.example.com:443/public/a?b=c#d"),
        ("https://files.example.com:443/public/", "https://files.example.com/public/a"),
        ("https://files.example.com", "https://files.example.com/a/b"),
        ("https://files.example.com", "https://files.example.com?a"),
        ("https://files.example.com/a", "https://files.example.com/a"),
        ("https://files.example.com/a", "https://files.example.com/a/b?c"),
        ("http://minio:9000/bucket", "http://minio:9000/bucket/x%20y@z"),
        ("http://[fd00::1]:80/", "http://[fd00::1]/x"),
        ("https://files.example.com/", "https://files.example.com/a%2Fb"),
        ("https://files.example.com/", "https://files.example.com/a..b/...c"),
    ],
)
def test_urls_below_a_prefix(prefix: str, url: str) -> None:
    assert is_allowed(parsed(url), parsed_prefix(prefix))


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/public/a",
        "https://files.example.com/private/a",
        "https://files.example.com/public",
        "https://files.example.com/Public/a",
        "https://files.example.com:8443/public/a",
        "https://files.example.com.evil.com/public/a",
        "https://evil-files.example.com/public/a",
        "https://files.example.co/public/a",
        "https://a.files.example.com/public/a",
        "https://127.0.0.1/public/a",
    ],
)
def test_urls_elsewhere(url: str) -> None:
    assert not is_allowed(parsed(url), parsed_prefix(PREFIX))


def test_a_prefix_ends_at_a_segment() -> None:
    assert not is_allowed(parsed("https://a.com/bc"), parsed_prefix("https://a.com/b"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "//files.example.com/public/a",
        "file:///etc/passwd",
        "ftp://files.example.com/public/a",
        "gopher://files.example.com/",
        "https:files.example.com/public/a",
        "https:///public/a",
        "https://files.example.com@evil.com/public/a",
        "https://user:password@files.example.com/public/a",
        "https://files.example.com:443@evil.com/public/a",
        "https://files.example.com\\@evil.com/public/a",
        "https://files.example.com\\.evil.com/public/a",
        "https:\\\\files.example.com\\public\\a",
        "https://files.example.com/public\\..\\a",
        "https://files.example.com/public/../private/a",
        "https://files.example.com/public/./a",
        "https://files.example.com/public/..",
        "https://files.example.com/public/%2e%2e/private",
        "https://files.example.com/public/.%2E/private",
        "https://files.example.com/public/%252e%252e/private",
        "https://files.example.com/public/..%2fprivate",
        "https://files.example.com/public/..%5cprivate",
        "https://files.example.com/public/..;x=y/private",
        "https://files.example.com/%" + "25" * 20 + "2e/a",
        " https://files.example.com/public/a",
        "https://files.example.com/public/a\n",
        "https://files.example.com/public/a b",
        "https://files.example.com/public/\0",
        "https://files.example.com\t/public/a",
        "https://fïles.example.com/public/a",
        "https://files。example.com/public/a",
        "https://files.example.com./public/a",
        "https://files.example.com:0/public/a",
        "https://files.example.com:99999/public/a",
        "https://files.example.com:4 43/public/a",
        "https://files.example.com:/public/a",
        "https://[::1%25eth0]/",
        "https://[::1/",
        "https://files.example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(BadUrl):
        parsed(url)


@pytest.mark.parametrize("prefix", ["https://a.com/?b", "https://a.com/#", "https://*.a.com/", "a.com", ""])
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(BadUrl):
        parsed_prefix(prefix)


@given(st.text(st.sampled_from("https:/\\@.?#%2e[]acom:80"), max_size=40))
def test_a_url_that_is_read_stays_the_same(end: str) -> None:
    try:
        url = parsed("https://" + end)
    except BadUrl:
        return
    assert parsed(str(url)) == url
    assert not {"\\", "@"} & set(url.host)


@pytest.mark.parametrize(
    ("url", "name"),
    [("https://a.com/b/c.pdf?d#e", "c.pdf"), ("https://a.com", ""), ("https://a.com/x%20y.txt", "x y.txt")],
)
def test_the_name_of_a_file(url: str, name: str) -> None:
    assert parsed(url).name == name
