from textwrap import dedent

import pytest

from scripts import plain_english


def rules(path: str, text: str) -> list[tuple[int, str]]:
    found, _ = plain_english.check(path, dedent(text))
    return [(finding.line, finding.rule) for finding in found]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Of one request; in seconds.", "genitive"),
        ("Seconds between pings. Of all clients the first counts.", "genitive"),
        ("Who signs certificates.", "relative"),
        ("Whose turn it is.", "relative"),
        ("What a step computes of one sequence.", "clause"),
        ("Where a call may begin.", "clause"),
        ("A request who waits gets 429.", "who"),
        ("Places for those\nwho wait.", "who"),
        ("The token count, if it was told.", "told"),
        ("Repeats the error that the backend said.", "said"),
        ("Tells the listener about the end.", "tells"),
        ("None if the backend doesn't say.", "says"),
        ("Fields that the request asks for.", "asks"),
        ("Ignores tensors that it does not know.", "knows"),
        ("Cuts the text after so many tokens.", "so many"),
        ("Waits for such a place.", "such a"),
        ("The text is to be cut.", "is to be"),
        ("Records what becomes of it.", "becomes of"),
        ("Takes down the outcome.", "takes down"),
        ("Lets the request in.", "lets in"),
        ("Nobody waits for it.", "nobody"),
        ("Keeps the connection for ever.", "for ever"),
        ("A prompt is what the template makes of a chat.", "makes of"),
        ("Reads the file once more.", "archaic"),
    ],
)
def test_a_rule_finds_its_words(text: str, rule: str) -> None:
    assert rules("a.py", f'"""{text}"""\n')[0][1] == rule


@pytest.mark.parametrize(
    "text",
    [
        "Of course it waits.",
        "Where the backend reports none, the count is 0.",
        "Where llama.cpp ends the process, it ends with status 1.",
        "A person who waits. Users who leave.",
        "README.md says how it is measured. The warning says why.",
        "The server can't know whether a body comes. A path to such a keyword is an error.",
        "Clients can't tell one from the other.",
        "The request has so many tokens that it is refused.",
        "Streams arrive in order. It lets callers fill in place.",
        "Passes `told` and `who` on.",
    ],
)
def test_honest_uses_pass(text: str) -> None:
    assert rules("a.py", f'"""{text}"""\n') == []


def test_docstrings_comments_and_long_strings_are_prose() -> None:
    text = '''
        """Module.

        Nobody reads it.
        """

        WORDS = "nobody asks"
        TEXT = f"a {WORDS} that nobody asked"  # for ever


        # A comment that those
        # who wait read.
        class Thing:
            field: int = 0
            """Of one request."""
    '''
    everywhere = [(4, "nobody"), (8, "for ever"), (11, "who"), (15, "genitive")]
    assert rules("tests/a.py", text) == everywhere
    assert rules("a.py", text) == sorted([*everywhere, (8, "asks"), (8, "nobody")])


def test_names_of_tests_are_prose() -> None:
    text = "def test_a_client_who_waits() -> None: ...\nasync def test_what_users_who_wait_get() -> None: ..."
    assert rules("tests/test_a.py", text) == [(1, "who")]


def test_bound_names_are_checked() -> None:
    text = """
        class Visit:
            takes: int

            def tell(self, told: int) -> None:
                self._ours = [each for each in (1, 2)]
                if given := self.ours:
                    print(asked)
    """
    found, _ = plain_english.check("a.py", dedent(text))
    expected = [(2, "Visit"), (3, "takes"), (5, "tell"), (5, "told"), (6, "_ours"), (6, "each"), (7, "given")]
    assert [(finding.line, finding.words) for finding in found] == expected


def test_markdown_without_code() -> None:
    text = """
        # Title

        Clients
        who wait, `who`.

        ```
        who am I
        ```
        | a | who |
        - item who
    """
    assert rules("a.md", text) == [(5, "who"), (10, "who"), (11, "who")]


def test_other_files_line_by_line() -> None:
    text = """
        # For those
        # who wait.
        key: value  # nobody
        // for
        // ever
    """
    assert rules("a.yaml", text) == [(2, "who"), (4, "nobody"), (5, "for ever")]


def test_exemptions_are_counted_and_needed() -> None:
    assert plain_english.check("a.py", "told = 1  # plain-english: ok\n") == ([], 1)
    assert plain_english.check("a.md", "A server who waits. <!-- plain-english: ok -->\n") == ([], 1)
    assert plain_english.check("a.py", '"""Nobody.\n\nMore.\n"""  # plain-english: ok\n') == ([], 1)
    assert rules("a.py", "payload = 1  # plain-english: ok\n") == [(1, "exemption")]


def test_the_pending_list_is_sorted_and_names_what_exists() -> None:
    pending = plain_english.pending()
    assert pending == sorted(set(pending))
    units = {plain_english.folder_of(path) for path in plain_english.files()}
    assert set(pending) <= units
