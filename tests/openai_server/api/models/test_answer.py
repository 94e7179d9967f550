import json
from typing import Any

from openai.types import Model

from openai_server.api.models.answer import model
from openai_server.http.json_response import encode


def payload_of(*arguments: Any) -> Any:
    return json.loads(encode(model(*arguments)))


def test_a_model_is_valid_and_has_only_known_values() -> None:
    parameters = {
        "context_length": "2048",
        "vocab_size": "9",
        "embedding_length": "4",
        "size": "many",
        "bos_token": "1",
    }
    payload = payload_of("m", 1, ["generate", "embed", "tokenize"], parameters)
    assert Model.model_validate(payload, strict=True).id == "m"
    assert payload["max_model_len"] == 2048
    assert payload["capabilities"] == ["completion", "embedding", "tokenize"]
    assert payload["meta"] == {"n_vocab": 9, "n_embd": 4}
    assert set(payload) - set(payload_of("m", 1, [], {"context_length": "²"})) == {"max_model_len", "meta"}
