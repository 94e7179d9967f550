"""`/tokenizer_info` with real vocabularies, as lm-eval reads it: each token is one token of `/tokenize`."""

import json
import urllib.request
from typing import Any

import pytest

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

EXPECTED: dict[str, dict[str, Any]] = {
    SMOLLM2: {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "add_bos_token": False,
        "model_max_length": 2048,
    },
    GEMMA3: {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "model_max_length": 2048,
    },
}


def send(url: str, body: object = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    with opener.open(urllib.request.Request(url, data), timeout=60) as response:
        return json.loads(response.read())


@pytest.mark.parametrize("model", EXPECTED)
def test_the_special_tokens_are_tokens_of_the_model(pair: Pair, model: str) -> None:
    info = send(f"{pair.url}/tokenizer_info?model={model}")
    template = info.pop("chat_template", None)
    assert info == EXPECTED[model]
    assert (template is None) is (model == GEMMA3), "Gemma's file has no template"
    for name in ("bos_token", "eos_token", "pad_token"):
        body = {"model": model, "prompt": info[name], "add_special_tokens": False}
        [token] = send(f"{pair.url}/tokenize", body)["tokens"]
        assert send(f"{pair.url}/detokenize", {"model": model, "tokens": [token]})["prompt"] == info[name]


def test_the_default_model_needs_no_name(pair: Pair) -> None:
    info = send(f"{pair.url}/tokenizer_info")
    assert info == send(f"{pair.url}/tokenizer_info?model={SMOLLM2}")
    assert "<|im_start|>" in info["chat_template"]
