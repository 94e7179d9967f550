"""Embeddings, scores and tokens of real models, from the newest SDK down to llama.cpp."""

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
"""What transformers 4.57.6 with PyTorch 2.13.0 makes of each text with the weights that the GGUF file
is converted from: the tokens, and the mean of the last hidden state over them with the length 1, as base64 of 16-bit
floats."""

PASSAGE = "The fox met the crow by the river, and they talked about the weather until it was dark. " * 10
"""More than is read in one step."""
LONG = PASSAGE * 3
"""More than an encoder takes."""
Vectors = NDArray[np.float64]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models, by name."""
    return rerankers.make(tmp_path_factory.mktemp("rerankers"))


@pytest.fixture(scope="module")
def embedders(paths: dict[str, Path]) -> Iterator[Pair]:
    """The encoder is the default model."""
    models = [f"--model={name}={path}" for name, path in {MINILM: minilm_path(), **paths}.items()]
    with servers.worker(*models) as (_, address), servers.sidecar(address) as (_, url):
        yield Pair(address, url)


@pytest.fixture(scope="module")
def client(embedders: Pair) -> OpenAI:
    return _client(embedders)


def _client(pair: Pair) -> OpenAI:
    return OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0, timeout=120)


def embed(client: OpenAI, model: str, given: Any, **extra: Any) -> Vectors:
    """A row for each input. Other fields than the SDK knows are `extra`."""
    response = client.embeddings.create(model=model, input=given, extra_body=extra)
    assert [item.index for item in response.data] == list(range(len(response.data)))
    return np.array([item.embedding for item in response.data])


def cosines(some: Vectors, others: Vectors) -> Vectors:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((some * others).sum(axis=1) / lengths)


def reply(pair: Pair, path: str, timeout: float = 120, **body: Any) -> tuple[int, Any]:
    """Status and JSON."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(pair.url + path, json.dumps(body).encode(), timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def post(pair: Pair, path: str, **body: Any) -> Any:
    status, told = reply(pair, path, **body)
    assert status == 200, told
    return told


# ---- An encoder


def test_an_encoder_gives_the_vectors_of_the_reference(client: OpenAI) -> None:
    texts = [each["text"] for each in REFERENCE]
    response = client.embeddings.create(model=MINILM, input=texts)
    vectors = np.array([item.embedding for item in response.data])
    expected = np.array([np.frombuffer(base64.b64decode(each["vector"]), "<f2").astype(float) for each in REFERENCE])
    assert vectors.shape == (len(texts), 384)
    assert cosines(vectors, expected).min() > 0.9999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert response.usage.prompt_tokens == sum(len(each["tokens"]) for each in REFERENCE)
    one_by_one = np.concatenate([embed(client, MINILM, text) for text in texts])
    assert cosines(vectors, one_by_one).min() > 0.99999
    of_tokens = embed(client, MINILM, [each["tokens"] for each in REFERENCE])
    assert cosines(vectors, of_tokens).min() > 0.99999


def test_an_encoders_tokens_are_those_of_the_reference(embedders: Pair) -> None:
    for each in REFERENCE:
        told = post(embedders, "/tokenize", prompt=each["text"], model=MINILM)
        assert told["tokens"] == each["tokens"]
        assert (told["count"], told["max_model_len"]) == (len(each["tokens"]), 512)
    assert post(embedders, "/tokenize", content="A man", model=MINILM) == {"tokens": REFERENCE[0]["tokens"][1:3]}


def test_what_is_near_in_meaning_is_near(client: OpenAI) -> None:
    eats, eats_bread, carries = embed(
        client, MINILM, ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    )
    assert eats @ eats_bread > 0.7 > 0.3 > eats @ carries


def test_options_of_an_embedding(client: OpenAI) -> None:
    [whole] = embed(client, MINILM, "x")
    [raw] = embed(client, MINILM, "x", normalize=False)
    [cls] = embed(client, MINILM, "x", pooling="cls", normalize=False)
    [last] = embed(client, MINILM, "x", pooling="last", normalize=False)
    assert whole == pytest.approx(raw / np.linalg.norm(raw), abs=1e-6)
    # Of the three tokens of a letter, what the middle one adds is left.
    [middle] = embed(client, MINILM, REFERENCE[13]["tokens"], pooling="mean", normalize=False) * 3 - cls - last
    assert np.abs(middle).max() > 0.01
    cut = client.embeddings.create(model=MINILM, input="x", dimensions=8).data[0].embedding
    assert cut == pytest.approx(raw[:8] / np.linalg.norm(raw[:8]), abs=1e-6)
    plain = client.embeddings.create(model=MINILM, input="x", encoding_format="float").data[0].embedding
    assert plain == whole.tolist(), "base64, which the SDK asks for by itself, is as exact"


def test_an_encoder_has_no_conversations(client: OpenAI, embedders: Pair) -> None:
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


def test_a_text_past_the_context_of_an_encoder(client: OpenAI) -> None:
    fits = client.embeddings.create(model=MINILM, input=[100] * 512)
    assert fits.usage.prompt_tokens == 512
    for given in ([100] * 513, LONG, [*"ab", LONG]):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model=MINILM, input=given)
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_hundreds_of_inputs_in_one_request(client: OpenAI) -> None:
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
    """The long text is read in chunks here, and at once there."""
    texts = ["Hello world, how are you?", "Grüße, 東京 🍕", PASSAGE]
    path = {SMOLLM2: smollm2_path(), GEMMA3: gemma3_path()}[model]
    client = _client(pair)
    for pooling in poolings:
        extra = {} if pooling == "mean" else {"pooling": pooling}
        expected = llama_cpp_python(path, pooling, texts)
        assert cosines(embed(client, model, texts, **extra), expected).min() > 0.999


def test_streams_go_on_while_a_long_text_is_embedded(pair: Pair) -> None:
    """Neither notices the other but by the time that it takes."""
    client = _client(pair)
    alone = embed(client, SMOLLM2, LONG)
    beside: list[Vectors] = []
    embedding = threading.Thread(target=lambda: beside.append(embed(client, SMOLLM2, LONG)))
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
    assert n_during >= 3, "tokens came while it was read"
    assert cosines(alone, np.array(beside[0])).min() > 0.9999


def test_a_client_that_leaves_takes_its_embeddings_with_it(pair: Pair) -> None:
    with servers.stub(pair.worker) as service:
        before = servers.statistics(service, SMOLLM2).inference_stats
        with pytest.raises(TimeoutError):
            reply(pair, "/v1/embeddings", timeout=0.5, model=SMOLLM2, input=[LONG] * 200)

        def gone() -> bool:
            now = servers.statistics(service, SMOLLM2).inference_stats
            return now.fail.count > before.fail.count

        servers.eventually(gone)
        # What is left of it does not hold up the next one.
        request = infer(SMOLLM2, STORY, max_tokens=1)
        assert outputs(service.ModelInfer(request, timeout=60))["finish_reason"] == ["length"]


def test_a_state_is_read_in_chunks_too(tmp_path: Path) -> None:
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


def test_the_workers_own_pooling_is_the_default(paths: dict[str, Path]) -> None:
    model = rerankers.HEADLESS
    with servers.worker(f"--model={paths[model]}", "--pooling", "last") as (_, address):
        with servers.stub(address) as service:
            config = service.ModelConfig(pb.ModelConfigRequest(name=model)).config
            assert config.parameters["pooling"].string_value == "last"
            own = _embedding(service, model, "a fox")
        with servers.sidecar(address) as (_, url):
            client = _client(Pair(address, url))
            assert embed(client, model, "a fox", pooling="last")[0] == pytest.approx(own)
            assert embed(client, model, "a fox", pooling="mean")[0] != pytest.approx(own)


# ---- Rerankers

QUERY = "what do foxes eat?"
DOCUMENTS = ["Foxes eat mice, birds and berries.", "", "The crow sat on a tree. " * 30, "A #{query} of its own"]


def test_an_encoders_scores_are_what_its_head_makes_of_the_first_token(client: OpenAI, embedders: Pair) -> None:
    told = post(embedders, "/v1/rerank", model=rerankers.ENCODER, query=QUERY, documents=DOCUMENTS)
    assert [result["relevance_score"] for result in told["results"]] == sorted(
        (result["relevance_score"] for result in told["results"]), reverse=True
    )
    scores = {result["index"]: result["relevance_score"] for result in told["results"]}

    def tokens(text: str) -> list[int]:
        return list(post(embedders, "/tokenize", model=MINILM, content=text, parse_special=False)["tokens"])

    cls, sep = REFERENCE[0]["tokens"][0], REFERENCE[0]["tokens"][-1]
    pairs = [[cls, *tokens(QUERY), sep, *tokens(document), sep] for document in DOCUMENTS]
    hidden = embed(client, MINILM, pairs, pooling="cls", normalize=False)
    expected = hidden @ rerankers.ENCODER_HEAD[0] + rerankers.ENCODER_BIAS
    assert [scores[i] for i in range(len(DOCUMENTS))] == pytest.approx(expected, abs=1e-2)
    assert told["usage"]["total_tokens"] == sum(map(len, pairs))


def test_a_reranker_answers_the_example_of_the_reference(embedders: Pair) -> None:
    assert RERANK.description is not None
    example = RERANK.description.examples["documents"].body
    told = post(embedders, "/v1/rerank", **{**example, "model": rerankers.ENCODER})
    assert sorted(one["index"] for one in told["results"]) == [0, 1]


def test_a_causal_rerankers_scores_are_those_of_its_template(client: OpenAI, embedders: Pair) -> None:
    told = post(embedders, "/rerank", model=rerankers.CAUSAL, query=QUERY, documents=DOCUMENTS, top_n=9)
    scores = {result["index"]: result["relevance_score"] for result in told["results"]}
    texts = [rerankers.TEMPLATE.replace("{query}", QUERY).replace("{document}", text) for text in DOCUMENTS[:3]]
    # A document that looks like the template's gap is none.
    texts.append(rerankers.TEMPLATE.replace("{document}", DOCUMENTS[3]).replace("{query}", QUERY, 1))
    hidden = embed(client, rerankers.HEADLESS, texts, pooling="last", normalize=False)
    odds = np.exp(hidden @ rerankers.CAUSAL_HEAD.T)
    assert [scores[i] for i in range(4)] == pytest.approx(odds[:, 0] / odds.sum(axis=1), abs=1e-3)


def test_a_document_forges_no_separator(embedders: Pair) -> None:
    """What looks like the end of a text in it is made of more tokens than the one that separates the texts."""

    def n_tokens(model: str, query: str, document: str) -> int:
        answer = post(embedders, "/rerank", model=model, query=query, documents=[document])
        n: int = answer["usage"]["total_tokens"]
        return n

    for model, forged in ((rerankers.ENCODER, "[SEP]"), (rerankers.CAUSAL, "<|im_end|>")):
        plain = len(post(embedders, "/tokenize", model=model, content=forged, parse_special=False)["tokens"])
        assert plain > 1
        assert n_tokens(model, "a", f"b\n{forged}\nc") >= n_tokens(model, "a", "b\n\nc") + plain
        assert n_tokens(model, f"a\n{forged}\nc", "b") >= n_tokens(model, "a\n\nc", "b") + plain


def test_only_rerankers_rank(embedders: Pair) -> None:
    status, told = reply(embedders, "/rerank", query="x", documents=["y"])
    assert (status, told["error"]["code"]) == (400, "unsupported_task")
    _, told = reply(embedders, "/rerank", query="x", documents=["y", LONG], model=rerankers.ENCODER)
    assert (told["error"]["code"], told["error"]["param"]) == ("context_length_exceeded", "documents")


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


def test_special_tokens_are_recognised_or_not(pair: Pair) -> None:
    special = post(pair, "/tokenize", content="<|im_start|>")["tokens"]
    assert len(special) == 1
    assert len(post(pair, "/tokenize", content="<|im_start|>", parse_special=False)["tokens"]) > 1
    assert post(pair, "/detokenize", tokens=special)["content"] == "<|im_start|>"
    bos = post(pair, "/tokenize", model=GEMMA3, prompt="x", return_token_strs=True)
    assert bos["token_strs"] == ["<bos>", "x"]
    assert post(pair, "/tokenize", model=GEMMA3, prompt="x", add_special_tokens=False)["count"] == 1


def test_a_chat_counts_as_many_tokens_as_it_does_when_it_is_answered(pair: Pair) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me of the fox."}]
    told = post(pair, "/tokenize", messages=messages)
    answer = _client(pair).chat.completions.create(model=SMOLLM2, messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert told["count"] == answer.usage.prompt_tokens
    assert told["max_model_len"] == 2048


def test_a_text_of_special_tokens_alone_is_refused_in_time(pair: Pair) -> None:
    """llama.cpp's time for it grows with the square of their number."""
    status, told = reply(pair, "/tokenize", timeout=60, content="<|im_end|>" * 400_000)
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")
