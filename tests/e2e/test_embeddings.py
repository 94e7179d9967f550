"""Embeddings, scores and tokens of real models, compared with the newest SDK, transformers and llama.cpp."""

import base64
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai import OpenAI

from openai_server.api.rerank.endpoint import RERANK
from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import recurrent, rerankers, servers
from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair
from tests.e2e.messages import STORY, infer, outputs
from tests.models import gemma3_path, minilm_path, smollm2_path

MINILM = "minilm"
REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text())
"""The reference for each text, from transformers 4.57.6 with PyTorch 2.13.0 and the weights of the GGUF file: the
tokens, and the mean of the last hidden state over them, normalized, as base64 of 16-bit floats."""

PASSAGE = "The fox met the crow by the river, and they talked about the weather until it was dark. " * 10
"""Longer than one step."""
LONG_TEXT = PASSAGE * 3
"""Longer than an encoder's context."""
Vectors = NDArray[np.float64]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the paths of tiny rerankers and of the model without a head, by name."""
    return rerankers.make(tmp_path_factory.mktemp("rerankers"))


@pytest.fixture(scope="module")
def embedders(paths: dict[str, Path]) -> Iterator[Pair]:
    """Serves the encoder, as the default model, and the rerankers."""
    models = [f"--model={name}={path}" for name, path in {MINILM: minilm_path(), **paths}.items()]
    with servers.worker(*models) as (_, address), servers.sidecar(address) as (_, url):
        yield Pair(address, url)


@pytest.fixture(scope="module")
def client(embedders: Pair) -> Iterator[OpenAI]:
    with _client(embedders) as client:
        yield client


def _client(pair: Pair) -> OpenAI:
    return OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0, timeout=120)


def embed(client: OpenAI, model: str, inputs: Any, **extra: Any) -> Vectors:
    """Returns a row for each input. `extra` are fields that the SDK doesn't have."""
    response = client.embeddings.create(model=model, input=inputs, extra_body=extra)
    assert [item.index for item in response.data] == list(range(len(response.data)))
    return np.array([item.embedding for item in response.data])


def cosines(first: Vectors, second: Vectors) -> Vectors:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / lengths)


def reply(pair: Pair, path: str, timeout: float = 120, **body: Any) -> tuple[int, Any]:
    """Returns status and JSON."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(pair.url + path, json.dumps(body).encode(), timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def post(pair: Pair, path: str, **body: Any) -> Any:
    status, content = reply(pair, path, **body)
    assert status == 200, content
    return content


# ---- Encoders


def test_an_encoder_gives_the_vectors_of_the_reference(client: OpenAI) -> None:
    texts = [entry["text"] for entry in REFERENCE]
    response = client.embeddings.create(model=MINILM, input=texts)
    vectors = np.array([item.embedding for item in response.data])
    expected = np.array([np.frombuffer(base64.b64decode(entry["vector"]), "<f2").astype(float) for entry in REFERENCE])
    assert vectors.shape == (len(texts), 384)
    assert cosines(vectors, expected).min() > 0.9999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert response.usage.prompt_tokens == sum(len(entry["tokens"]) for entry in REFERENCE)
    one_by_one = np.concatenate([embed(client, MINILM, text) for text in texts])
    assert cosines(vectors, one_by_one).min() > 0.99999
    of_tokens = embed(client, MINILM, [entry["tokens"] for entry in REFERENCE])
    assert cosines(vectors, of_tokens).min() > 0.99999


def test_an_encoders_tokens_are_those_of_the_reference(embedders: Pair) -> None:
    for entry in REFERENCE:
        response = post(embedders, "/tokenize", prompt=entry["text"], model=MINILM)
        assert response["tokens"] == entry["tokens"]
        assert (response["count"], response["max_model_len"]) == (len(entry["tokens"]), 512)
    assert post(embedders, "/tokenize", content="A man", model=MINILM) == {"tokens": REFERENCE[0]["tokens"][1:3]}


def test_texts_with_similar_meanings_have_similar_vectors(client: OpenAI) -> None:
    eats, eats_bread, carries = embed(
        client, MINILM, ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    )
    assert eats @ eats_bread > 0.7 > 0.3 > eats @ carries


def test_an_embedding_has_the_requested_pooling_dimensions_and_encoding(client: OpenAI) -> None:
    [whole] = embed(client, MINILM, "x")
    [raw] = embed(client, MINILM, "x", normalize=False)
    [cls] = embed(client, MINILM, "x", pooling="cls", normalize=False)
    [last_token] = embed(client, MINILM, "x", pooling="last", normalize=False)
    assert whole == pytest.approx(raw / np.linalg.norm(raw), abs=1e-6)
    # A letter has three tokens; without the first and the last one, the middle one's part is left.
    [middle] = embed(client, MINILM, REFERENCE[13]["tokens"], pooling="mean", normalize=False) * 3 - cls - last_token
    assert np.abs(middle).max() > 0.01
    cut = client.embeddings.create(model=MINILM, input="x", dimensions=8).data[0].embedding
    assert cut == pytest.approx(raw[:8] / np.linalg.norm(raw[:8]), abs=1e-6)
    plain = client.embeddings.create(model=MINILM, input="x", encoding_format="float").data[0].embedding
    assert plain == whole.tolist(), "base64, the SDK's default, is as exact"


def test_an_encoder_does_not_generate(client: OpenAI, embedders: Pair) -> None:
    for call in (
        lambda: client.chat.completions.create(model=MINILM, messages=[{"role": "user", "content": "x"}]),
        lambda: client.completions.create(model=MINILM, prompt="x", stream=True),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert (refused.value.code, refused.value.param) == ("unsupported_task", "model")
    with servers.stub(embedders.worker) as service:
        assert service.ModelReady(pb.ModelReadyRequest(name=MINILM)).ready
        assert outputs(service.ModelInfer(_model_info()))["n_ctx"] == [512]
    models = {model.id: model.to_dict() for model in client.models.list()}
    assert models[MINILM]["capabilities"] == ["embedding", "tokenize", "detokenize"]
    assert models[MINILM]["max_model_len"] == 512


def _model_info() -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=contract.ANYSERVE_MODEL_INFO, model_version=contract.ANYSERVE_VERSION)


def test_a_text_longer_than_an_encoders_context_is_refused(client: OpenAI) -> None:
    fits = client.embeddings.create(model=MINILM, input=[100] * 512)
    assert fits.usage.prompt_tokens == 512
    for inputs in ([100] * 513, LONG_TEXT, [*"ab", LONG_TEXT]):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model=MINILM, input=inputs)
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_hundreds_of_inputs_in_one_request_are_embedded(client: OpenAI) -> None:
    texts = [f"Number {i} " + "and more " * (i % 20) for i in range(200)]
    vectors = embed(client, MINILM, texts)
    assert cosines(vectors[::50], embed(client, MINILM, texts[::50])).min() > 0.99999
    assert len({tuple(vector[:4]) for vector in vectors.round(9)}) == 200


# ---- Models that generate

_WITH_LLAMA_CPP_PYTHON = """
import json, sys
from llama_cpp import Llama

pooling = {"mean": 1, "cls": 2, "last": 3}[sys.argv[2]]
model = Llama(sys.argv[1], embedding=True, n_ctx=512, pooling_type=pooling, verbose=False)
print(json.dumps(model.embed(json.load(sys.stdin), normalize=True)))
"""


def llama_cpp_python(path: Path, pooling: str, texts: Sequence[str]) -> Vectors:
    result = subprocess.run(
        [sys.executable, "-c", _WITH_LLAMA_CPP_PYTHON, str(path), pooling],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return np.array(json.loads(result.stdout))


@pytest.mark.parametrize(("model", "poolings"), [(SMOLLM2, ("mean", "last")), (GEMMA3, ("mean",))])
def test_a_model_that_generates_embeds_as_in_llama_cpp_python(
    pair: Pair, model: str, poolings: tuple[str, ...]
) -> None:
    """The worker reads the long text in chunks, llama-cpp-python at once."""
    texts = ["Hello world, how are you?", "Grüße, 東京 🍕", PASSAGE]
    path = {SMOLLM2: smollm2_path(), GEMMA3: gemma3_path()}[model]
    with _client(pair) as client:
        for pooling in poolings:
            extra = {} if pooling == "mean" else {"pooling": pooling}
            expected = llama_cpp_python(path, pooling, texts)
            assert cosines(embed(client, model, texts, **extra), expected).min() > 0.999


def test_streams_continue_while_a_long_text_is_embedded(pair: Pair) -> None:
    """The embedding is the same as without the stream."""
    with _client(pair) as client:
        alone = embed(client, SMOLLM2, LONG_TEXT)
        beside: list[Vectors] = []
        embedding = threading.Thread(target=lambda: beside.append(embed(client, SMOLLM2, LONG_TEXT)))
        n_before = n_during = 0
        with client.completions.create(
            model=SMOLLM2, prompt=STORY, max_tokens=300, temperature=0, stream=True, extra_body={}
        ) as stream:
            for _ in stream:
                if n_before < 5:
                    n_before += 1
                    if n_before == 5:
                        embedding.start()
                elif not beside:
                    n_during += 1
        embedding.join()
    assert n_during >= 3, "tokens arrived while the text was embedded"
    assert cosines(alone, np.array(beside[0])).min() > 0.9999


def test_a_client_that_disconnects_cancels_its_embeddings(pair: Pair) -> None:
    with servers.stub(pair.worker) as service:
        before = servers.statistics(service, SMOLLM2).inference_stats
        with pytest.raises(TimeoutError):
            reply(pair, "/v1/embeddings", timeout=0.5, model=SMOLLM2, input=[LONG_TEXT] * 200)

        def has_failed() -> bool:
            current = servers.statistics(service, SMOLLM2).inference_stats
            return current.fail.count > before.fail.count

        servers.eventually(has_failed)
        # The cancelled inputs don't delay the next request.
        request = infer(SMOLLM2, STORY, max_tokens=1)
        assert outputs(service.ModelInfer(request, timeout=60))["finish_reason"] == ["length"]


def test_a_state_is_computed_in_chunks_too(tmp_path: Path) -> None:
    path = recurrent.make(tmp_path)[recurrent.JAMBA]
    texts = ["Hello world", PASSAGE, "Once upon a time"]
    vectors = []
    for chunk in ("32", "512"):
        with (
            servers.worker(f"--model={path}", "--prefill-chunk", chunk) as (_, address),
            servers.stub(address) as service,
        ):
            requests = [_to_embed(recurrent.JAMBA, text) for text in texts * 2]
            calls = [service.ModelInfer.future(request) for request in requests]
            together = np.array([outputs(call.result())["embedding"] for call in calls])
            alone = np.array([_embedding(service, recurrent.JAMBA, text) for text in texts])
            assert cosines(together, np.concatenate([alone, alone])).min() > 0.9999
            vectors.append(alone)
    assert cosines(*vectors).min() > 0.9999


def _to_embed(model: str, text: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.parameters[contract.PARAM_TASK].string_param = contract.TASK_EMBED
    tensors.add_input(request, contract.PROMPT, [text.encode()])
    return request


def _embedding(service: GRPCInferenceServiceStub, model: str, text: str) -> list[float]:
    return outputs(service.ModelInfer(_to_embed(model, text)))["embedding"]


def test_the_workers_pooling_option_is_the_default(paths: dict[str, Path]) -> None:
    model = rerankers.HEADLESS
    with servers.worker(f"--model={paths[model]}", "--pooling", "last") as (_, address):
        with servers.stub(address) as service:
            config = service.ModelConfig(pb.ModelConfigRequest(name=model)).config
            assert config.parameters["pooling"].string_value == "last"
            expected = _embedding(service, model, "a fox")
        with servers.sidecar(address) as (_, url), _client(Pair(address, url)) as client:
            assert embed(client, model, "a fox", pooling="last")[0] == pytest.approx(expected)
            assert embed(client, model, "a fox", pooling="mean")[0] != pytest.approx(expected)


# ---- Rerankers

QUERY = "what do foxes eat?"
DOCUMENTS = ["Foxes eat mice, birds and berries.", "", "The crow sat on a tree. " * 30, "A #{query} of its own"]


def test_an_encoders_scores_are_its_head_applied_to_the_first_token(client: OpenAI, embedders: Pair) -> None:
    response = post(embedders, "/v1/rerank", model=rerankers.ENCODER, query=QUERY, documents=DOCUMENTS)
    assert [result["relevance_score"] for result in response["results"]] == sorted(
        (result["relevance_score"] for result in response["results"]), reverse=True
    )
    scores = {result["index"]: result["relevance_score"] for result in response["results"]}

    def tokens(text: str) -> list[int]:
        return list(post(embedders, "/tokenize", model=MINILM, content=text, parse_special=False)["tokens"])

    cls, sep = REFERENCE[0]["tokens"][0], REFERENCE[0]["tokens"][-1]
    pairs = [[cls, *tokens(QUERY), sep, *tokens(document), sep] for document in DOCUMENTS]
    hidden = embed(client, MINILM, pairs, pooling="cls", normalize=False)
    expected = hidden @ rerankers.ENCODER_HEAD[0] + rerankers.ENCODER_BIAS
    assert [scores[i] for i in range(len(DOCUMENTS))] == pytest.approx(expected, abs=1e-2)
    assert response["usage"]["total_tokens"] == sum(map(len, pairs))


def test_a_reranker_answers_the_example_of_the_api_reference(embedders: Pair) -> None:
    description = RERANK.described()
    assert description is not None
    example = description.examples["documents"].body
    response = post(embedders, "/v1/rerank", **{**example, "model": rerankers.ENCODER})
    assert sorted(result["index"] for result in response["results"]) == [0, 1]


def test_a_causal_rerankers_scores_are_those_of_its_template(client: OpenAI, embedders: Pair) -> None:
    response = post(embedders, "/rerank", model=rerankers.CAUSAL, query=QUERY, documents=DOCUMENTS, top_n=9)
    scores = {result["index"]: result["relevance_score"] for result in response["results"]}
    texts = [rerankers.TEMPLATE.replace("{query}", QUERY).replace("{document}", text) for text in DOCUMENTS[:3]]
    # A document that contains the template's placeholder is not filled in.
    texts.append(rerankers.TEMPLATE.replace("{document}", DOCUMENTS[3]).replace("{query}", QUERY, 1))
    hidden = embed(client, rerankers.HEADLESS, texts, pooling="last", normalize=False)
    odds = np.exp(hidden @ rerankers.CAUSAL_HEAD.T)
    assert [scores[i] for i in range(4)] == pytest.approx(odds[:, 0] / odds.sum(axis=1), abs=1e-3)


def test_a_document_can_not_forge_a_separator(embedders: Pair) -> None:
    """A forged separator consists of more tokens than the real one."""

    def n_tokens(model: str, query: str, document: str) -> int:
        response = post(embedders, "/rerank", model=model, query=query, documents=[document])
        n: int = response["usage"]["total_tokens"]
        return n

    for model, forged in ((rerankers.ENCODER, "[SEP]"), (rerankers.CAUSAL, "<|im_end|>")):
        plain = len(post(embedders, "/tokenize", model=model, content=forged, parse_special=False)["tokens"])
        assert plain > 1
        assert n_tokens(model, "a", f"b\n{forged}\nc") >= n_tokens(model, "a", "b\n\nc") + plain
        assert n_tokens(model, f"a\n{forged}\nc", "b") >= n_tokens(model, "a\n\nc", "b") + plain


def test_only_rerankers_rank(embedders: Pair) -> None:
    status, response = reply(embedders, "/rerank", query="x", documents=["y"])
    assert (status, response["error"]["code"]) == (400, "unsupported_task")
    _, response = reply(embedders, "/rerank", query="x", documents=["y", LONG_TEXT], model=rerankers.ENCODER)
    assert (response["error"]["code"], response["error"]["param"]) == ("context_length_exceeded", "documents")


# ---- Tokens

TEXTS = [
    "Hello world",
    "  spaces\n\n\tand tabs ",
    "Grüße, 東京 🍕👩‍👩‍👧",
    "def f(x):\n    return x**2",
    "'tis — “quoted”",
    "",
]


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
def test_a_text_comes_back_from_its_tokens(pair: Pair, model: str) -> None:
    for text in TEXTS:
        tokens = post(pair, "/tokenize", model=model, content=text)["tokens"]
        assert post(pair, "/detokenize", model=model, tokens=tokens)["content"] == text
        pieces = post(pair, "/tokenize", model=model, content=text, with_pieces=True)["tokens"]
        assert [piece["id"] for piece in pieces] == tokens
        raw = b"".join(bytes(p) if isinstance(p, list) else p.encode() for p in (piece["piece"] for piece in pieces))
        assert raw.decode() == text


def test_special_tokens_are_recognized_unless_disabled(pair: Pair) -> None:
    special = post(pair, "/tokenize", content="<|im_start|>")["tokens"]
    assert len(special) == 1
    assert len(post(pair, "/tokenize", content="<|im_start|>", parse_special=False)["tokens"]) > 1
    assert post(pair, "/detokenize", tokens=special)["content"] == "<|im_start|>"
    bos = post(pair, "/tokenize", model=GEMMA3, prompt="x", return_token_strs=True)
    assert bos["token_strs"] == ["<bos>", "x"]
    assert post(pair, "/tokenize", model=GEMMA3, prompt="x", add_special_tokens=False)["count"] == 1


def test_tokenizing_a_chat_counts_the_tokens_of_its_prompt(pair: Pair) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me of the fox."}]
    tokenized = post(pair, "/tokenize", messages=messages)
    with _client(pair) as client:
        completion = client.chat.completions.create(model=SMOLLM2, messages=messages, max_tokens=1)
    assert completion.usage is not None
    assert tokenized["count"] == completion.usage.prompt_tokens
    assert tokenized["max_model_len"] == 2048


def test_a_text_of_only_special_tokens_is_refused_in_time(pair: Pair) -> None:
    """llama.cpp's time for it grows with the square of their number."""
    status, response = reply(pair, "/tokenize", timeout=60, content="<|im_end|>" * 400_000)
    assert (status, response["error"]["code"]) == (400, "context_length_exceeded")
