import hashlib

import pytest

from openai_server.access.keys import ANYBODY, BadKeys, Caller, Keys, keys_from_file, keys_from_options
from openai_server.core.errors import Unauthorized

SECRET = "sk-secret"


def bearer(key: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"{scheme} {key}".encode())]


def test_without_keys_every_request_is_allowed() -> None:
    assert Keys().caller([]) == Keys().caller(bearer("anything")) == ANYBODY


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_each_key_has_its_own_caller(scheme: str) -> None:
    keys = keys_from_options(["one", "two"])
    first, second = (keys.caller(bearer(key, scheme)) for key in ("one", "two"))
    assert first.id != second.id
    assert (first.name, second.name) == ("key 1", "key 2")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"api-key", b"one")],
        [(b"x-api-key", b" one ")],
        [(b"x-api-key", b"one"), (b"api-key", b"one"), *bearer("one")],
        [(b"x-goog-api-key", b"two"), (b"x-api-key", b"one")],
    ],
)
def test_a_key_may_be_in_the_headers_of_azure_and_anthropic(headers: list[tuple[bytes, bytes]]) -> None:
    keys = keys_from_options(["one", "two"])
    assert keys.caller(headers) == keys.caller(bearer("one"))


def test_a_missing_key_is_refused_with_all_ways_to_send_one() -> None:
    with pytest.raises(Unauthorized) as caught:
        keys_from_options([SECRET]).caller([])
    assert all(way in caught.value.message for way in ("'Authorization: Bearer KEY'", "'api-key'", "'x-api-key'"))


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([], "No API key was given"),
        ([(b"authorization", b"")], "not of the form"),
        ([(b"authorization", SECRET.encode())], "not of the form"),
        ([(b"authorization", b"Basic " + SECRET.encode())], "not of the form"),
        ([(b"authorization", b"Bearer")], "holds no API key"),
        ([(b"authorization", b"Bearer   ")], "holds no API key"),
        (bearer(SECRET + "x"), "not one of this server's"),
        (bearer(SECRET[:-1]), "not one of this server's"),
        (bearer(SECRET.upper()), "not one of this server's"),
        ([(b"authorization", b"Bearer \xff\xfe")], "not one of this server's"),
        (bearer(SECRET) + bearer(SECRET), "more than one Authorization header"),
        ([(b"x-api-key", SECRET.encode())] * 2, "more than one x-api-key header"),
        ([(b"api-key", b"")], "api-key header holds no API key"),
        ([(b"x-api-key", b"  "), *bearer(SECRET)], "x-api-key header holds no API key"),
        ([(b"x-api-key", b"Bearer " + SECRET.encode())], "not one of this server's"),
        ([(b"api-key", SECRET.encode() + b"x")], "not one of this server's"),
        (
            [*bearer(SECRET), (b"api-key", SECRET.encode() + b"x")],
            "headers Authorization and api-key hold different API keys",
        ),
        (
            [(b"api-key", b"x"), (b"x-api-key", SECRET.encode())],
            "headers api-key and x-api-key hold different API keys",
        ),
        ([(b"authorization", b"Basic " + SECRET.encode()), (b"x-api-key", SECRET.encode())], "not of the form"),
    ],
)
def test_a_request_without_a_valid_key_gets_the_reason_and_no_key(
    headers: list[tuple[bytes, bytes]], problem: str
) -> None:
    with pytest.raises(Unauthorized, match=problem) as caught:
        keys_from_options([SECRET]).caller(headers)
    error = caught.value
    assert (error.status, error.type, error.code) == (401, "invalid_request_error", "invalid_api_key")
    assert error.headers == {"www-authenticate": "Bearer"}
    assert SECRET[3:].lower() not in error.message.lower()


def test_ten_thousand_keys_are_looked_up_by_hash() -> None:
    class Digest(bytes):
        n_compared = 0

        def __eq__(self, other: object) -> bool:
            Digest.n_compared += 1
            return super().__eq__(other)

        __hash__ = bytes.__hash__

    keys = Keys((Digest(hashlib.sha256(b"key %d" % i).digest()), Caller(str(i), "")) for i in range(10_000))
    assert keys.caller(bearer("key 9876")).id == "9876"
    with pytest.raises(Unauthorized):
        keys.caller(bearer("key 10000"))
    assert Digest.n_compared <= 2


def test_a_key_file_has_keys_names_and_comments() -> None:
    keys = keys_from_file("# who may\n\n  plain  \nalice: a1\r\nalice:\ta2\nbob: b:1\n")
    plain, first, second, bob = (keys.caller(bearer(key)) for key in ("plain", "a1", "a2", "b:1"))
    assert (plain.name, first.name, bob.name) == ("line 3", "alice", "bob")
    assert first == second  # both keys are valid while one replaces the other
    assert len({plain.id, first.id, bob.id}) == 3


def test_the_caller_of_a_key_does_not_depend_on_its_line() -> None:
    before, after = keys_from_file("a\nb"), keys_from_file("\n\nb")
    assert before.caller(bearer("b")).id == after.caller(bearer("b")).id


def test_long_names_with_the_same_beginning_have_different_labels() -> None:
    team = "the-team-with-the-very-long-name"
    keys = keys_from_file(f"{team}-a: one\n{team}-b: two\n{team}-b: three\nshort: four")
    labels = [keys.caller(bearer(key)).label for key in ("one", "two", "three", "four")]
    assert labels[1] == labels[2]
    assert len(set(labels)) == 3
    assert labels[3] == "name short"


def test_a_name_cannot_be_the_id_of_another_key() -> None:
    digest = keys_from_options(["a"]).caller(bearer("a")).id
    assert keys_from_file(f"{digest}: b").caller(bearer("b")).id != digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key"),
        ("# nothing\n\n", "no key"),
        ("good\nalice sk-secret", "line 2 is neither"),
        ("alice: sk-secret more", "line 1 is neither"),
        (": sk-secret", "line 1 is neither"),
        ("good\n:", "line 2 is neither"),
        ("good\nalice:", "line 2 has a name without a key"),
        ("good\nsk-secret:\n", "line 2 has a name without a key"),
        ("alice: sk-secret\n\nbob: sk-secret", "lines 1 and 3 have the same key"),
        ("sk-secret\nbob: sk-secret", "lines 1 and 2 have the same key"),
        ("bob: sk-secret\ngood\nsk-secret", "lines 1 and 3 have the same key"),
        ("alice: one\nalice: sk-secret\nbob: sk-secret", "lines 2 and 3 have the same key"),
        ("alice: schlüssel-sk-secret", "line 1 has characters"),
        ("alice: sk- secret", "line 1 is neither"),
        ("schlüssel-sk-secret", "line 1 has characters"),
        ("sk-secret\x00", "line 1 has characters"),
    ],
)
def test_an_error_in_a_key_file_names_the_line_and_no_key(text: str, problem: str) -> None:
    with pytest.raises(BadKeys, match=problem) as caught:
        keys_from_file(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["one\none", "alice: one\nalice: one", "alice: one\nalice: two\nalice: one"])
def test_a_repeated_line_is_one_key(text: str) -> None:
    keys = keys_from_file(text)
    assert len(keys) == len(set(text.split()) - {"alice:"})


@pytest.mark.parametrize("text", ["alice: two", "good\nalice: one\nbob: two"])
def test_a_key_of_an_option_cannot_have_another_caller_in_the_file(text: str) -> None:
    with pytest.raises(BadKeys, match="it gives key 2 of --api-key to another caller"):
        keys_from_options(["first", "two"]) | keys_from_file(text)


def test_a_key_of_an_option_may_be_in_the_file_without_a_name() -> None:
    assert len(keys_from_options(["one", "two"]) | keys_from_file("two\nthree")) == 3


def test_printing_does_not_disclose_keys() -> None:
    keys = keys_from_options([SECRET])
    assert SECRET not in f"{keys!r} {vars(keys)!r}"
