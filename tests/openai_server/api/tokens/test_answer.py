import json
from typing import Any

from openai_server.api.schemas_tasks import ContentToTokenize, MessagesToTokenize, PromptToTokenize
from openai_server.api.tokens.answer import tokens
from openai_server.http.json_response import encode


def payload_of(*arguments: Any) -> Any:
    return json.loads(encode(tokens(*arguments)))


def test_tokens_have_the_form_of_the_request() -> None:
    ids, pieces = [5, 6], ["é".encode()[:1], b"x"]
    assert payload_of(ContentToTokenize(content=""), ids, pieces, 9) == {"tokens": [5, 6]}
    with_pieces = payload_of(ContentToTokenize(content="", with_pieces=True), ids, pieces, 9)
    assert with_pieces == {"tokens": [{"id": 5, "piece": [0xC3]}, {"id": 6, "piece": "x"}]}
    for request in (PromptToTokenize(prompt=""), MessagesToTokenize(messages=[])):
        payload = payload_of(request, ids, pieces, 9)
        assert payload == {"count": 2, "max_model_len": 9, "tokens": [5, 6]}
        request.return_token_strs = True
        assert payload_of(request, ids, pieces, None)["token_strs"] == ["\ufffd", "x"]
