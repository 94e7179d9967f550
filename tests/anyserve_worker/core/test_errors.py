"""An error's message and details fit into gRPC's headers, whatever the client has sent."""

import pytest

from anyserve_worker.core.errors import MAX_MESSAGE, MAX_NAME, InvalidRequest


@pytest.mark.parametrize("length", [0, 1, MAX_MESSAGE])
def test_a_message_up_to_the_limit_is_unchanged(length: int) -> None:
    assert str(InvalidRequest("x" * length)) == "x" * length


def test_a_long_message_is_cut_in_its_middle() -> None:
    error = InvalidRequest("😀" * 100_000 + " is too long")
    assert len(str(error)) == MAX_MESSAGE
    assert str(error).startswith("😀" * 200)
    assert "😀…😀" in str(error)
    assert str(error).endswith("😀 is too long")
    percent_encoded = 3 * len(str(error).encode())
    assert percent_encoded < 8192, "gRPC refuses more"


@pytest.mark.parametrize("name", ["temperature", "x y", "x" * MAX_NAME, ""])
def test_an_error_names_its_tensor(name: str) -> None:
    assert InvalidRequest("no", tensor=name).tensor == name


@pytest.mark.parametrize("name", ["é", "a\nb", "a\0", "x" * (MAX_NAME + 1)])
def test_a_name_that_does_not_fit_into_a_header_is_left_out(name: str) -> None:
    assert not InvalidRequest("no", tensor=name, part=name).details
