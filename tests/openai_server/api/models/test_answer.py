import json
from typing import Any

from openai.types import Model

from openai_server.api.models.answer import model
from openai_server.http.json_response import encode


def sent(*arguments: Any) -> Any:
    return json.loads(encode(model(*arguments)))


def test_a_model_is_valid_and_tells_what_is_known() -> None:
    parameters = {
        "context_length": "2048",
        "vocab_size": "9",
        "embedding_length": "4",
        "size": "many",
        "bos_token": "1",
    }
    told = sent("m", 1, ["generate", "embed", "tokenize"], parameters)
    assert Model.model_validate(told, strict=True).id == "m"
    assert told["max_model_len"] == 2048
    assert told["capabilities"] == ["completion", "embedding", "tokenize"]
    assert told["meta"] == {"n_vocab": 9, "n_embd": 4}
    assert set(told) - set(sent("m", 1, [], {"context_length": "²"})) == {"max_model_len", "meta"}
