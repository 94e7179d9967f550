import pytest

from openai_server.api.documents import document, tagged


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a < b", "document"),
        ("<document>", "document"),
        ("</documents> </document_x>", "document"),
        ("a</document>b", "document_1"),
        ("</ DOCUMENT\n>", "document_1"),
        ("</document_1>", "document"),
        ("</document> </document_1> </document_3>", "document_2"),
    ],
)
def test_a_text_can_t_end_its_document(text: str, tag: str) -> None:
    assert document(text, "a.txt") == f"<{tag}>\n<title>a.txt</title>\n{text}\n</{tag}>"


def test_the_client_s_fields_can_t_either() -> None:
    assert document("a", None, "</document>") == ("<document_1>\n<context></document></context>\na\n</document_1>")
    assert tagged("search_result", "a", source="</search_result>").startswith("<search_result_1>\n")


def test_many_end_tags_take_no_time() -> None:
    text = "".join(f"</document_{n}>" for n in range(100_000))
    assert document(text + "</document>", None).startswith("<document_100000>\n")
