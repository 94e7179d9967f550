"""Mapping files of operators: every key has its effect, and a mistake is an error that names it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from openai_server.backends.dialects.base import Rpc, Target, UnusableModel
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.dialect import Mapped
from openai_server.backends.dialects.mapping.explain import ABSENT
from openai_server.backends.dialects.mapping.load import BadMapping, load, parse
from openai_server.backends.dialects.mapping.schema import MappingFile
from openai_server.core.errors import BackendError, UnsupportedParameter
from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import Sampling, TemplateOptions, Turn
from openai_server.core.usage import Usage
from tests.openai_server.backends.dialects.mapping.models import (
    TRITON,
    answer_of,
    call_of,
    inputs_of,
    tensors_of,
)
from tests.wire.foreign_server import answer as response

MINIMAL = '[inputs]\nprompt = "PROMPT"\n[outputs]\ntext = "TEXT"\n'


def file_of(text: str) -> MappingFile:
    return parse(tomllib.loads(text), "mine")


def mapped(text: str, description: Description | None = None) -> Mapped:
    return Mapped(file_of(text), description or Description(model="m"))


# ---- Requests


def test_places_are_tensors_json_keys_and_request_parameters() -> None:
    dialect = mapped(
        """
        [json]
        tensor = "PARAMS"
        always = { mode = "fast" }
        [inputs]
        prompt = { tensor = "PROMPT", rank = 2, parameters = { content_type = "str" } }
        max_tokens = { tensor = "LIMIT", type = "UINT32", default = 256 }
        stop = { key = "stopping.words" }
        temperature = { parameter = "temperature" }
        top_p = { tensor = "top_p", type = "FP64" }
        seed = { parameter = "seed" }
        [outputs]
        text = "TEXT"
        [request_parameters]
        user = "sidecar"
        """
    )
    call = call_of(dialect, max_tokens=7, stop=["a", "b"], temperature=0.5, top_p=0.9, seed=3)
    inputs = inputs_of(call)
    assert json.loads(inputs.pop("PARAMS")[0]) == {"mode": "fast", "stopping": {"words": ["a", "b"]}}
    assert inputs == {"PROMPT": [b"Hi"], "LIMIT": [7], "top_p": [0.9]}
    [prompt, limit, *_] = call.request.inputs
    assert (list(prompt.shape), prompt.parameters["content_type"].string_param) == ([1, 1], "str")
    assert limit.datatype == "UINT32"
    parameters = call.request.parameters
    assert (parameters["temperature"].double_param, parameters["seed"].int64_param) == (0.5, 3)
    assert parameters["user"].string_param == "sidecar"


def test_values_are_converted() -> None:
    dialect = mapped(
        """
        [inputs]
        prompt = "PROMPT"
        max_tokens = { tensor = "characters", factor = 4 }
        stop = { tensor = "stop", join = "|" }
        logprobs = { tensor = "logprobs", with = { with_logprobs = true } }
        temperature = { tensor = "temperature", at_zero = { greedy = true }, with = { greedy = false } }
        top_k = { tensor = "top_k", min = 1, max = 50 }
        json_schema = { tensor = "guide", as = "json", inside = "schema" }
        [outputs]
        text = "TEXT"
        """
    )
    inputs = inputs_of(call_of(dialect, max_tokens=2, stop=["a", "b"], temperature=0, json_schema={"type": "null"}))
    assert (inputs["characters"], inputs["stop"], inputs["greedy"]) == ([8], [b"a|b"], [True])
    assert json.loads(json.loads(inputs["guide"][0])["schema"]) == {"type": "null"}
    assert "temperature" not in inputs
    assert "with_logprobs" not in inputs
    assert inputs_of(call_of(dialect, temperature=0.5))["greedy"] == [False]
    assert inputs_of(call_of(dialect, logprobs=1))["with_logprobs"] == [True]
    for top_k in (0, 51):
        with pytest.raises(UnsupportedParameter, match=r"top_k.* must be at"):
            call_of(dialect, top_k=top_k)


def test_constants_depend_on_the_kind_of_call() -> None:
    dialect = mapped(
        MINIMAL
        + """
        [always]
        seed = 0
        words = { value = ["a", "b"], type = "BYTES", rank = 2 }
        "absent|scale" = 0.5
        [when_streaming]
        stream = true
        [when_whole]
        whole = "yes"
        """
    )
    whole, stream = call_of(dialect), call_of(dialect, streams=True)
    assert (whole.rpc, stream.rpc) == (Rpc.UNARY, Rpc.STREAM)
    common: dict[str, Any] = {"PROMPT": [b"Hi"], "seed": [0], "words": [b"a", b"b"], "absent": [0.5]}
    assert inputs_of(whole) == {**common, "whole": [b"yes"]}
    assert inputs_of(stream) == {**common, "stream": [True]}


def test_tensors_follow_the_metadata_of_the_model() -> None:
    description = Description(
        model="m",
        server=TRITON,
        is_decoupled=True,
        inputs=tensors_of("PROMPT:BYTES t:FP64 scale:FP64 stop:BYTES", (-1, 1)),
    )
    text = """
        [inputs]
        prompt = "PROMPT"
        temperature = ["temperature", "t"]
        max_tokens = "max_tokens"
        stop = "stop"
        [always]
        "absent|scale" = 2
        missing = 1
        [outputs]
        text = "TEXT"
        """
    call = call_of(mapped(text, description), temperature=0.5, stop=["a", "b"])
    tensors = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in call.request.inputs}
    assert tensors == {
        "PROMPT": ("BYTES", [1, 1]),
        "t": ("FP64", [1, 1]),
        "stop": ("BYTES", [1, 2]),
        "scale": ("FP64", [1, 1]),
    }
    with pytest.raises(UnsupportedParameter, match="max_tokens"):
        call_of(mapped(text, description), max_tokens=3)


@pytest.mark.parametrize("rpc", ["unary", "stream", "both", "bare_stream"])
def test_the_call_can_be_chosen(rpc: str) -> None:
    dialect = mapped(f'rpc = "{rpc}"\n{MINIMAL}')
    expected = {"unary": Rpc.UNARY, "stream": Rpc.STREAM, "bare_stream": Rpc.BARE_STREAM, "both": Rpc.STREAM}
    assert call_of(dialect, streams=True).rpc is expected[rpc]


def test_versions_and_names_can_be_replaced() -> None:
    text = '[address]\nwhole = "run"\nstream = "run_stream"\nversion = "7"\n' + MINIMAL
    request = call_of(mapped(text), streams=True).request
    assert (request.model_name, request.model_version) == ("run_stream", "7")


# ---- Answers


@pytest.mark.parametrize(
    ("outputs", "responses", "expected"),
    [
        ('text = { tensor = "T", json = "choices.0.text" }', [{"T": '{"choices": [{"text": "yes"}]}'}], "yes"),
        ('text = { tensor = ["A", "T"] }', [{"T": "yes"}], "yes"),
        ('text = { tensor = "T", has_prompt = true }', [{"T": "Hi yes"}], " yes"),
        ('text = "T"\nend = { tensor = "DONE" }', [{"T": "ye"}, {"T": "s", "DONE": ("BOOL", [True])}], "yes"),
        ('text = "T"\nend = { text = "[END]" }', [{"T": "yes"}, {"T": "[END]"}], "yes"),
        ('text = "T"\nend = { text = "[END]" }', [{"T": "ye"}, {"T": "s[END]"}], "yes"),
        ('text = "T"\nend = { text = "[END]" }', [{"T": "yes["}, {"T": "EN"}, {"T": "D]\n"}], "yes"),
        ('text = "T"\nend = { text = "[END]" }', [{"T": "yes["}, {"T": "EN"}, {"T": "[END]"}], "yes[EN"),
        (
            'text = { tensor = "T", cumulative = true }\nend = { text = "[END]" }',
            [{"T": "y"}, {"T": "yes"}, {"T": "yes[END]"}],
            "yes",
        ),
        (
            'text = { tensor = "T", json = "t" }\nend = { text = "[DONE]" }',
            [{"T": '{"t": "yes"}'}, {"T": "[DONE]"}],
            "yes",
        ),
        ('text = { tensor = "T", json = "t" }', [{"T": '{"role": 1}'}, {"T": '{"t": "yes"}'}, {"T": "{}"}], "yes"),
        ('text = "T"\nend = "rpc"', [{"T": "yes"}], "yes"),
        ('text = { tensor = "T", cumulative = true }\nend = "rpc"', [{"T": "y"}, {"T": "yes"}], "yes"),
    ],
)
def test_texts_and_ends_are_read(outputs: str, responses: list[dict[str, Any]], expected: str) -> None:
    text = f'rpc = "stream"\n[inputs]\nprompt = "P"\n[outputs]\n{outputs}\n'
    texts, *_ = answer_of(call_of(mapped(text)), *(response(**message) for message in responses))
    assert texts == {0: expected}


def test_an_end_that_is_missing_is_an_error() -> None:
    for end in ('{ tensor = "DONE" }', '{ text = "[END]" }', '"triton_final_response"'):
        text = f'rpc = "stream"\n[inputs]\nprompt = "P"\n[outputs]\ntext = "T"\nend = {end}\n'
        with pytest.raises(BackendError, match="ended the stream early"):
            answer_of(call_of(mapped(text)), response(T="yes"))


def test_the_mark_of_the_end_is_cut_off_from_whole_answers() -> None:
    text = 'rpc = "unary"\ninputs.prompt = "P"\n[outputs]\ntext = "T"\nend = { text = "[END]" }\n'
    assert answer_of(call_of(mapped(text)), response(T="yes[END]"))[0] == {0: "yes"}
    with pytest.raises(BackendError, match="text after the end"):
        answer_of(call_of(mapped(text)), response(T="yes[END] no"))


def test_an_answer_without_the_path_of_the_text_is_an_error() -> None:
    text = 'rpc = "{}"\ninputs.prompt = "P"\noutputs.text = {{ tensor = "T", json = "choices.0.text" }}\n'
    with pytest.raises(BackendError, match=r"no 'choices\.0\.text'"):
        answer_of(call_of(mapped(text.format("unary"))), response(T='{"error": "no"}'))
    with pytest.raises(BackendError, match="sent no text"):
        answer_of(call_of(mapped(text.format("stream"))), response(T='{"error": "no"}'))


def test_default_stop_strings_are_cut_off_too() -> None:
    text = """
        inputs = { prompt = "P", stop = { tensor = "S", default = ["</s>"] } }
        outputs.text = { tensor = "T", keeps_stop = true }
        """
    call = call_of(mapped(text))
    assert inputs_of(call)["S"] == [b"</s>"]
    assert answer_of(call, response(T="yes</s>"))[0] == {0: "yes"}
    assert answer_of(call_of(mapped(text), stop="e"), response(T="ye"))[0] == {0: "y"}


def test_outputs_follow_the_metadata_of_the_model() -> None:
    text = """
        rpc = "stream"
        inputs.prompt = "P"
        [outputs]
        text = { tensor = ["A", "T"] }
        index = "I"
        finish_reason = "R"
        prompt_tokens = "N_IN"
        completion_tokens = "N_OUT"
        logprobs = { tensor = "L", form = "vllm" }
        error = "E"
        """
    plain = mapped(text, Description(model="m", outputs=tensors_of("T:BYTES")))
    assert answer_of(call_of(plain, streams=True), response(T="ye"), response(T="s"))[0] == {0: "yes"}
    explanation = plain.explain()
    assert explanation.text == "tensor T"
    assert explanation.finish_reason.startswith("absent")
    assert {explanation.counts, explanation.logprobs} == {ABSENT}
    full = mapped(text, Description(model="m", outputs=tensors_of("T:BYTES R:BYTES N_IN:INT32 N_OUT:INT32")))
    assert (full.explain().finish_reason, full.explain().counts) == ("tensor R", "tensor N_IN and tensor N_OUT")
    with pytest.raises(BackendError, match="early"):
        answer_of(call_of(full), response(T="yes", R=("BYTES", [])))


@pytest.mark.parametrize(
    ("outputs", "reported"),
    [
        ('text = "T"', "X:BYTES"),
        ('text = "T"', "T:INT32"),
        ('text = "T"\nend = { tensor = "DONE" }', "T:BYTES"),
        ('text = "T"\nend = "finish_reason"\nfinish_reason = "R"', "T:BYTES"),
    ],
)
def test_a_model_without_an_output_that_is_needed_is_unusable(outputs: str, reported: str) -> None:
    text = f'inputs.prompt = "P"\n[outputs]\n{outputs}\n'
    with pytest.raises(UnusableModel, match=r"it has no (text )?output"):
        mapped(text, Description(model="m", outputs=tensors_of(reported)))
    assert mapped(f"lists_inputs = false\n{text}", Description(model="m", outputs=tensors_of(reported)))


def test_counts_and_reasons_are_read() -> None:
    text = """
        rpc = "stream"
        [inputs]
        prompt = "P"
        [outputs]
        text = "T"
        end = "rpc"
        finish_reason = { tensor = "R", json = "why", none = ["going"], map = { eos = "stop", budget = "length" } }
        prompt_tokens = { tensor = "USAGE", json = "in" }
        cached_tokens = { tensor = "USAGE", json = "cached" }
        completion_tokens = { tensor = "USAGE", json = "out" }
        """
    parts = [
        response(T="y", R='{"why": "going"}', USAGE='{"in": 3, "cached": 1, "out": 1}'),
        response(T="es", R='{"why": "budget"}', USAGE='{"in": 3, "cached": 1, "out": 2}'),
    ]
    assert answer_of(call_of(mapped(text)), *parts) == ({0: "yes"}, {0: "length"}, Usage(3, 2, 1))
    with pytest.raises(BackendError, match="a number of tokens"):
        call_of(mapped(text)).new_reader().read(response(T="y", USAGE='{"in": "x"}'))


def test_an_error_in_band_fails_the_request() -> None:
    call = call_of(mapped(MINIMAL + 'error = "ERROR"\n'))
    with pytest.raises(BackendError, match="no memory"):
        call.new_reader().read(response(TEXT="", ERROR="no memory"))
    assert answer_of(call, response(TEXT="yes", ERROR=""))[0] == {0: "yes"}


# ---- Chats as messages


def chat_call(text: str, *messages: Message, **fields: Any) -> dict[str, list[Any]]:
    names = {"enable_thinking": "chat_template_kwargs"}
    turn = Turn(messages=messages, sampling=Sampling(), names={"messages": "messages", **names}, **fields)
    [call] = mapped(text).calls(turn, (), Target("m", (), "id"), {}, streams=False)
    return inputs_of(call)


CHAT = (SystemMessage("Be brief."), UserMessage("Hi"))


def test_a_chat_can_be_sent_as_messages() -> None:
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    outputs = '[outputs]\ntext = "T"\n'
    assert json.loads(chat_call('messages = "chat"\n' + outputs, *CHAT)["chat"][0]) == plain
    listed = chat_call('messages = { tensor = "chat", as = "list" }\n' + outputs, *CHAT)["chat"]
    assert [json.loads(item) for item in listed] == plain
    apart = 'messages = { tensor = "history", system = "system", last_user = "question" }\n' + outputs
    assert chat_call(apart, *CHAT) == {"history": [b"[]"], "system": [b"Be brief."], "question": [b"Hi"]}
    with pytest.raises(UnsupportedParameter, match="user at the end"):
        chat_call(apart, CHAT[0])


def test_a_chat_can_be_sent_as_columns() -> None:
    columns = 'messages = { tensor = "text", as = "columns", role = "role", kind = "kind" }\n[outputs]\ntext = "T"\n'
    several = UserMessage([TextPart("a"), TextPart("b")])
    assert chat_call(columns, DeveloperMessage("d"), several, AssistantMessage("c"), UserMessage("e")) == {
        "text": [b"d", b"a\nb", b"c", b"e"],
        "role": [b"system", b"user", b"assistant", b"user"],
        "kind": [b"text"] * 4,
    }
    called = AssistantMessage(tool_calls=[ToolCall("1", FunctionCall("f", "{}"))])
    older = AssistantMessage(function_call=FunctionCall("f", "{}"))
    for message in (called, older, ToolMessage("x", "1"), FunctionMessage("f", "x")):
        with pytest.raises(UnsupportedParameter) as caught:
            chat_call(columns, *CHAT, message)
        assert caught.value.param == "messages[2]"


def test_a_chat_as_messages_refuses_what_a_template_would_express() -> None:
    text = 'messages = "chat"\n[outputs]\ntext = "T"\n'
    with pytest.raises(UnsupportedParameter) as caught:
        chat_call(text, *CHAT, tools=[], tool_use=ToolUse([Tool(FunctionDefinition("f"))]))
    assert caught.value.param == "tools"
    with pytest.raises(UnsupportedParameter) as caught:
        chat_call(text, *CHAT, template=TemplateOptions(enable_thinking=True))
    assert caught.value.param == "chat_template_kwargs"


def test_hints_for_a_template_have_no_effect_on_a_chat_as_messages() -> None:
    """Such as the options that the Messages API sets by itself."""
    text = 'messages = "chat"\n[outputs]\ntext = "T"\n'
    template = TemplateOptions(enable_thinking=False, reasoning_effort="low")
    assert chat_call(text, *CHAT, template=template, thinking_is_hint=True, effort_is_hint=True)
    for hints in ({"thinking_is_hint": True}, {"effort_is_hint": True}):
        with pytest.raises(UnsupportedParameter):
            chat_call(text, *CHAT, template=template, **hints)
    with pytest.raises(UnsupportedParameter):
        chat_call(text, *CHAT, template=TemplateOptions(reasoning_effort="none"), effort_is_hint=True)


# ---- Files


def test_a_file_extends_a_built_in_one() -> None:
    file = file_of('extends = "triton_vllm"\nmodels = ["mine"]\n[inputs]\nsuffix = { key = "suffix" }\n')
    assert (file.name, file.models, file.recognize) == ("mine", ["mine"], None)
    assert {"prompt", "suffix", "stop"} <= file.inputs.keys()
    assert file.json is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1", "unknown field `a`"),
        ("[outputs]\ntext = 1\n", r"outputs\.text"),
        ('[outputs]\ntext = "T"\n', "must have an input `prompt`"),
        ('[inputs]\nprompt = "P"\nfoo = "F"\n[outputs]\ntext = "T"\n', "unknown input 'foo'"),
        ('[inputs]\nprompt = { key = "p" }\n[outputs]\ntext = "T"\n', "no table `json`"),
        ('[inputs]\nprompt = { type = "BYTES" }\n[outputs]\ntext = "T"\n', "one of `tensor`, `key` and `parameter`"),
        ('[inputs]\nprompt = { tensor = "p", inside = "x" }\n[outputs]\ntext = "T"\n', 'needs `as = "json"`'),
        ('messages = { tensor = "m", as = "columns" }\n[outputs]\ntext = "T"\n', "needs `role`"),
        ('messages = { tensor = "m", role = "r" }\n[outputs]\ntext = "T"\n', "needs `role`"),
        ('messages = { tensor = "m", kind = "k" }\n[outputs]\ntext = "T"\n', "needs `role`"),
        ('extends = "x"\n', "extends 'x'; it can extend one of"),
        ('extends = "../builtin/trtllm"\n', "it can extend one of"),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, problem: str) -> None:
    with pytest.raises(BadMapping, match=problem):
        file_of(text)


def test_files_are_read_with_their_template(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('models = ["x*"]\n[model]\nchat_template = "t.jinja"\ncontext_length = 9\n' + MINIMAL)
    with pytest.raises(BadMapping, match=r"t\.jinja"):
        load(path)
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    recognized = Dialects(files=[load(path)]).of(Description(model="xy"))
    assert recognized is not None
    assert recognized.dialect.parameters == {"chat_template": "{{ messages }}", "context_length": "9"}
    for content, problem in ((b"a = [", "not valid TOML"), (b"\xff", "can't be read")):
        path.write_bytes(content)
        with pytest.raises(BadMapping, match=problem):
            load(path)
    with pytest.raises(BadMapping, match="No such file"):
        load(tmp_path / "missing.toml")
