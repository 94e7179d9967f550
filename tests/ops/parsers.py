"""Parsers of untrusted bytes, as targets for a fuzzer: each accepts any bytes, and raises if it finds a bug.

A target defines what its parser may raise and what must hold for its results. `seeds` are where a fuzzer starts: bytes
that get far into the parser.
"""

import json
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

import msgspec
import orjson
from google.protobuf.message import DecodeError, Message

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.service import request as worker_request
from anyserve_worker.service import tasks as worker_tasks
from openai_server.access.caps import Caps
from openai_server.api import openapi, schemas, schemas_tasks
from openai_server.api.answers import AnswerIdentity, AnswerOptions
from openai_server.api.chat import whole as whole_chat
from openai_server.api.completions import whole as whole_completion
from openai_server.api.embeddings import answer as embeddings
from openai_server.api.registry import ENDPOINTS
from openai_server.api.responses import request as responses_request
from openai_server.api.timings import prompt_progress, timings_of
from openai_server.backends.dialects.anyserve import decode, encode
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.answer import Answer
from openai_server.core.errors import APIError, BackendError
from openai_server.parsing import json_text
from openai_server.parsing.parser import Parser
from openai_server.parsing.reasoning import ReasoningParser, tags_of
from openai_server.prompting.functions import FILTERS, TESTS
from openai_server.prompting.plan import Planner
from openai_server.prompting.template import RenderOptions, Templates
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.parsing.answers import answer
from tests.openai_server.parsing.tools.cases import CASES, FORMATS, TOOLS
from tests.openai_server.prompting.conversations import CASES as CONVERSATIONS
from tests.wire import fake_worker

MAX_SECONDS = 5.0
"""Maximum seconds for one input; most take less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Callable[[], Iterable[str]] = tuple
    """Words that a fuzzer would find slowly by itself."""
    longest: int = 4096
    """Maximum bytes of an input."""


TEMPLATE = (
    '{% if tools %}{{ tools | tojson }}<tool_call>"arguments"</tool_call>{% endif %}'
    "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)
TEMPLATES = Templates(clock=time.thread_time, now=partial(datetime, 2026, 3, 4), seconds=0.5, characters=5000)
PLANNER = Planner(TEMPLATES, new_id=lambda: "call_1")

# ---- Bodies of HTTP requests


def check_refusal(error: APIError) -> None:
    """Checks that the error blames the request, in a short envelope that can be encoded."""
    assert 400 <= error.status < 500
    assert error.message
    assert len(orjson.dumps(error.envelope())) < 8000


def completion(body: bytes) -> None:
    try:
        turn = schemas.parse_completion(body).turn()
        for prompt in turn.prompts:
            encode.infer_request(turn, prompt, model="m", request_id="id")
    except APIError as error:
        check_refusal(error)


def chat(body: bytes) -> None:
    try:
        plan = PLANNER.plan(schemas.parse_chat(body).turn(), {"chat_template": TEMPLATE}, EVERYTHING)
        encode.infer_request(plan.turn, plan.prompt, model="m", request_id="id", server_inputs=plan.inputs)
    except APIError as error:
        check_refusal(error)


def response(body: bytes) -> None:
    try:
        request = responses_request.parse(body, Caps())
        turn = request.with_opened(["opened" for _ in request.sealed_items]).turn
        plan = PLANNER.plan(turn, {"chat_template": TEMPLATE}, EVERYTHING)
        encode.infer_request(plan.turn, plan.prompt, model="m", request_id="id", server_inputs=plan.inputs)
    except APIError as error:
        check_refusal(error)


TASKS: tuple[Callable[[bytes], Any], ...] = (
    schemas_tasks.parse_embedding,
    schemas_tasks.parse_rerank,
    schemas_tasks.parse_tokenize,
    schemas_tasks.parse_detokenize,
)


def task(body: bytes) -> None:
    for parse in TASKS:
        try:
            parse(body)
        except APIError as error:
            check_refusal(error)


BODIES: tuple[dict[str, Any], ...] = (
    {"prompt": ["a", "b"], "n": 2, "best_of": 3, "logprobs": 2, "stop": ["x"], "logit_bias": {"1": 2.5}, "seed": -1},
    {"prompt": [[1, 2], [3]], "stream": True, "stream_options": {"include_usage": True}, "regex": "a|b"},
    {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": [1]}}}},
    {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}, "strict": True}}],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
        },
        "regex": "(a|b)/c",
    },
    {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": "i", "type": "function", "function": {"name": "f"}}]},
            {"role": "tool", "content": "x", "tool_call_id": "i"},
        ],
        "functions": [{"name": "f"}],
        "function_call": {"name": "f"},
        "reasoning_effort": "low",
        "chat_template_kwargs": {"a": None},
    },
    {
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"},
            {"type": "function_call", "call_id": "i", "name": "f", "namespace": "n", "arguments": "{}"},
            {"type": "message", "role": "user", "content": "x", "phase": None},
            {"type": "function_call_output", "call_id": "i", "output": "x"},
            {"type": "shell_call", "call_id": "i", "action": {"commands": ["a"]}},
            {"type": "configuration_update", "reasoning": {"effort": "low"}},
            {"type": "additional_tools", "role": "developer", "tools": [{"type": "custom", "name": "c"}]},
            {"type": "compaction", "encrypted_content": "e"},
        ],
        "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "strict": True}]}],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
    },
    {"input": ["a"], "dimensions": 2, "encoding_format": "base64"},
    {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
    {"content": "x", "with_pieces": True},
    {"messages": [{"role": "user", "content": "x"}], "return_token_strs": True},
    {"tokens": [1, 2]},
)


HOSTILE = (
    b'{"prompt": "x", "logit_bias": {"' + b"9" * 3000 + b'": 1}}',
    b'{"prompt": "x", "response_format": {"type": ' + b"[" * 960 + b"]" * 960 + b"}}",
    b'{"prompt": "x", "json_schema": ' + b'{"not":' * 260 + b"{}" + b"}" * 260 + b"}",
    b'{"messages": [{"role": "' + b"r" * 3000 + b'", "content": "x"}], "max_tokens": 1e300}',
    b'{"messages": [{"role": "user", "content": "x"}], "' + b"k" * 3000 + b'": 1}',
    b'{"input": "x", "dimensions": ' + b"9" * 300 + b"}",
    b'{"input": [{"role": "user", "content": "x"}, {"type": "shell_call", "action": '
    + b"[" * 900
    + b"]" * 900
    + b"}]}",
)
"""Values that are too long, too deep or too large."""


def plain_bodies() -> list[bytes]:
    return [orjson.dumps(body) for body in BODIES]


def bodies() -> list[bytes]:
    return [*plain_bodies(), *HOSTILE]


def keys() -> Iterator[str]:
    """Yields the keys of bodies with their colon, and the words of enums."""
    for schema in openapi.document(ENDPOINTS, keys=False)["components"]["schemas"].values():
        for name, value in schema.get("properties", {}).items():
            yield f'"{name}":'
            for subschema in (value, *value.get("anyOf", ())):
                yield from (f'"{word}"' for word in subschema.get("enum", ()) if isinstance(word, str))


# ---- Text generated by models


def json_of_models(data: bytes) -> None:
    """Valid JSON must be JSON to other parsers too, and JSON of other parsers must be passed on unchanged."""
    text = data.decode(errors="replace").strip()
    accepted = json_text.valid(text)
    if accepted is not None and not _deep(accepted):
        json.loads(accepted)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    if not LONG_WORD.search(text):
        assert accepted is not None
        assert orjson.loads(accepted) == value


LONG_WORD = re.compile("[-+.0-9A-Za-z]{401}")
"""Longer than any number that our parser accepts."""


def _deep(text: str) -> bool:
    """Returns whether the text nests too deeply for Python's own parser."""
    return text.count("[") + text.count("{") > 500


NAMES = sorted(FORMATS)
REASONING_TAGS = tags_of("<think></think>")


def calls(data: bytes) -> None:
    """The first bytes choose the format, the reasoning mode and the cut; the result must not depend on the cut."""
    format, mode, at, text = data[:1], data[1:2], int.from_bytes(data[2:4]), data[4:].decode(errors="replace")
    tool_format = FORMATS[NAMES[int.from_bytes(format) % len(NAMES)]]
    reasoning_mode = int.from_bytes(mode) % 3

    def parser() -> Parser:
        tool_parser = tool_format.parser(TOOLS)
        assert REASONING_TAGS is not None
        return ReasoningParser(REASONING_TAGS, tool_parser, reasoning_mode == 2) if reasoning_mode else tool_parser

    whole = answer(parser(), [text])
    at %= len(text) + 1
    assert answer(parser(), [text[:at], text[at:]]) == whole
    assert answer(parser(), list(text)) == whole


def texts() -> list[bytes]:
    cases = [
        bytes([NAMES.index(tool_format.name), 0, 0, 9]) + text.encode("utf-8", "surrogatepass")
        for tool_format, text, _ in CASES
    ]
    return [*cases, b"\0\1\0\7<think>\nhm\n</think>\n\nyes", b'\0\2\0\7hm</think><tool_call>{"name": "f"}']


def markers() -> Iterable[str]:
    return {word for _, text, _ in CASES for word in re.findall(r"<[^<>\s]{1,40}>|\[[A-Z_]+\]", text)}


# ---- Templates


@cache
def conversations() -> list[Any]:
    return [case.messages for case in CONVERSATIONS.values()]


def template(data: bytes) -> None:
    """Any template of a model gives a prompt or an error of the request."""
    source = data[1:].decode(errors="replace")
    messages = conversations()[int.from_bytes(data[:1]) % len(conversations())]
    began = time.thread_time()
    try:
        prompt = TEMPLATES.render(source, messages, {"bos_token": "<s>"}, RenderOptions())
        assert len(prompt) <= 5000
        prompt.encode()
    except APIError as error:
        check_refusal(error)
    assert time.thread_time() - began < MAX_SECONDS / 2, "the time limit was exceeded"


SOURCES = (
    TEMPLATE,
    "{% set ns = namespace(a=0) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{{ ns.a ~ m.content }}{% endfor %}",
    "{% macro f(x, y='z') %}{{ x | upper }}{{ caller() if caller }}{% endmacro %}{{ f(messages[0].content) }}",
    "{{ messages | map(attribute='role') | join(',') }}{{ messages[::-1] | length }}{{ 'a' * 20 }}{{ 2 ** 8 }}",
    "{{ '%s-%d' | format('a', 3) }}{{ '{:>9}'.format(1) }}{{ range(9) | list | batch(2) | list }}{{ 'ab'.center(9) }}",
    "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no') }}{%- endif -%}{{ strftime_now('%Y') }}",
    "{% generation %}{{ 'x'.replace('x', 'y').split('y') }}{% endgeneration %}{{ [1, 2] | tojson(indent=2) }}",
    "{% for k, v in {'a': 1}.items() recursive %}{{ loop.index0 }}{{ k }}{{ loop([]) }}{% else %}x{% endfor %}",
    "{{ {}.__class__ }}{{ ''.join(messages[0].values()) }}{{ messages | tojson | length | string | indent(3) }}",
)


def names() -> list[str]:
    """Returns the names that a template may use."""
    tags = (
        "for",
        "in",
        "endfor",
        "if",
        "elif",
        "else",
        "endif",
        "set",
        "endset",
        "macro",
        "endmacro",
        "call",
        "endcall",
    )
    kinds = (
        "str",
        "int",
        "list",
        "dict",
        "__class__",
        "__globals__",
        "cycler",
        "joiner",
        "namespace",
        "lipsum",
        "range",
    )
    return [*tags, *kinds, *(f"|{name}" for name in FILTERS), *(f"is {name}" for name in TESTS if name.isalpha())]


# ---- Messages of KServe's protocol


def _parsed(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def check_fits_headers(error: InvalidRequest) -> None:
    assert len(str(error)) + sum(map(len, error.details.values())) < 1000


def worker(data: bytes) -> None:
    """Requests of any client to the worker: each is parsed as every task."""
    request = _parsed(ModelInferRequest, data)
    if request is None:
        return
    with suppress(InvalidRequest):
        worker_tasks.task_of(request)
    for name in contract.TASKS:
        try:
            worker_request.parse(request) if name == contract.TASK_GENERATE else worker_tasks.parse(name, request)
        except InvalidRequest as error:
            check_fits_headers(error)


def codec(data: bytes) -> None:
    """A message that can be decoded can be encoded in the other form, and decoded again."""
    request = _parsed(ModelInferRequest, data)
    if request is None:
        return
    try:
        decoded = tensors.read_inputs(request)
    except tensors.TensorError:
        return
    raw = ModelInferRequest()
    for name, tensor in decoded.items():
        raw.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        try:
            raw.raw_input_contents.append(tensors.to_raw(tensor.datatype, tensor.elements))
        except struct.error:  # typed contents hold INT8 in 32 bits, so values may not fit
            return
    decoded_again = tensors.read_inputs(raw)
    assert {name: repr(list(tensor.elements)) for name, tensor in decoded_again.items()} == {
        name: repr(list(tensor.elements)) for name, tensor in decoded.items()
    }


IDENTITY = AnswerIdentity("id", 1, "m")
OPTIONS = AnswerOptions(logprobs=True, include_usage=True)


def backend(data: bytes) -> None:
    """Responses of any backend to the sidecar: each is decoded as every kind of response, and encoded for the
    client."""
    response = _parsed(ModelInferResponse, data)
    if response is None:
        return

    def whole() -> None:
        decoded = decode.answer(response, len(response.outputs[0].shape) if response.outputs else 1)
        choices: list[Answer] = [decoded]
        msgspec.json.encode(whole_completion.completion(IDENTITY, choices, OPTIONS).content)
        msgspec.json.encode(whole_chat.chat_completion(IDENTITY, choices, OPTIONS).content)

    def stream() -> None:
        reader = decode.StreamReader(2)
        reader.read(response)
        _ = reader.usage, reader.prompt_usage
        if timings := reader.timings:
            msgspec.json.encode(timings_of(timings))
        msgspec.json.encode(list(map(prompt_progress, reader.take_progress())))
        reader.end()

    def step_batch() -> None:
        batch = decode.step_batch(response)
        _ = list(batch.rows), list(batch.prompts or ())

    def embedding() -> None:
        vector, count = decode.embedding(response)
        request = schemas_tasks.EmbeddingRequest(input="x")
        msgspec.json.encode(embeddings.embeddings("m", [embeddings.vector(vector, request)], [count]))

    def other_decoders() -> Iterator[Callable[[], object]]:
        for decoder in (decode.score, decode.tokens, decode.text):
            yield partial(decoder, response)

    for decoder in (whole, stream, embedding, step_batch, *other_decoders()):
        with suppress(BackendError):
            decoder()


def requests() -> list[bytes]:
    encoded = []
    for specs in ((contract.PROMPT, contract.MAX_TOKENS, contract.STOP, contract.N), contract.INPUTS):
        request = ModelInferRequest(model_name="m", id="i")
        for spec in specs:
            tensors.add_input(request, spec, [ELEMENTS.get(spec.datatype, 1)])
        encoded.append(request.SerializeToString())
    for name, task_specs in contract.TASKS.items():
        request = ModelInferRequest(model_name="m")
        request.parameters[contract.PARAM_TASK].string_param = name
        for spec in task_specs.inputs:
            request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[1])
            request.raw_input_contents.append(tensors.to_raw(spec.datatype, [ELEMENTS.get(spec.datatype, 1)]))
        encoded.append(request.SerializeToString())
    return encoded


ELEMENTS: dict[str, Any] = {"BYTES": b"x", "FP32": 0.5, "BOOL": True}


def _timed(response: ModelInferResponse) -> ModelInferResponse:
    times = fake_worker.message(
        (contract.PROMPT_MS, [2.5]),
        (contract.COMPLETION_MS, [7.5]),
        (contract.PROGRESS_TOKENS, [1, 3]),
        (contract.PROGRESS_MS, [0.0, 1.5]),
    )
    response.MergeFrom(times)
    return response


def responses() -> list[bytes]:
    messages = [
        fake_worker.whole("a", "b"),
        fake_worker.token("a"),
        fake_worker.last_token("a"),
        fake_worker.as_step_batch(fake_worker.last_token("a"), 3),
        fake_worker.as_step_batch(fake_worker.first_token("a"), 3),
        _timed(fake_worker.whole("a")),
        _timed(fake_worker.last_token("a")),
        fake_worker.message((contract.EMBEDDING, [0.5, 1.0]), (contract.PROMPT_TOKENS, [2]), raw=True),
        fake_worker.message((contract.SCORE, [0.5])),
        fake_worker.message((contract.TOKEN_IDS, [1]), (contract.TOKEN_PIECES, [b"x"])),
        fake_worker.message((contract.WHOLE_TEXT, [b"x"])),
    ]
    return [response.SerializeToString() for response in messages]


TARGETS: dict[str, Target] = {
    "completion": Target(completion, bodies, keys),
    "chat": Target(chat, bodies, keys),
    "response": Target(response, bodies, keys),
    "task": Target(task, bodies, keys),
    "json": Target(
        json_of_models, lambda: [*plain_bodies(), b"{'a': True, \"b\": [1, -2.5e3, null, ], 'c': '\\x41\\d'}"]
    ),
    "calls": Target(calls, texts, markers, longest=600),
    "template": Target(template, lambda: [b"\1" + source.encode() for source in SOURCES], names, longest=1000),
    "worker": Target(worker, requests),
    "codec": Target(codec, requests),
    "backend": Target(backend, responses),
}
