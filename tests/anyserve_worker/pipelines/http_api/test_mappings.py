"""Mappings, their parts, and the errors of their authors."""

from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import InvalidInput, SetupError, UpstreamFailed
from anyserve_worker.pipelines.core.events import Text
from anyserve_worker.pipelines.http_api import load
from anyserve_worker.pipelines.http_api.mappings import BadMapping, read_api
from anyserve_worker.pipelines.http_api.paths import JsonPath, Requirement
from anyserve_worker.pipelines.http_api.reader import MappedReader
from anyserve_worker.pipelines.http_api.requests import merged
from anyserve_worker.pipelines.http_api.templates import ABSENT, JsonTemplate, scope_of
from tests.anyserve_worker.pipelines.answering import Summary, chat, collect, folder, running, summary
from tests.anyserve_worker.pipelines.scripted_server import Call, scripted_server

MINIMAL: dict[str, Any] = {
    "request": {"path": "/x", "body": {"t": "{last_user}"}},
    "answer": {"text": "a", "finish": {"path": "why", "map": {"end": "stop"}}},
}
VALUE = {"a": [{"b": "x", "t": True}, {"b": "y", "t": False}, {"b": None}, 7], "0": "zero", "n": 1}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("a", [VALUE["a"]]),
        ("a[].b", ["x", "y"]),
        ("a.1.b", ["y"]),
        ("a.9.b", []),
        ("a.-1", []),
        ("a[b=x].t", [True]),
        ("a[t=true].b", ["x"]),
        ("a[t!=true].b", ["y"]),
        ("a[b!=x].b", ["y"]),
        ("0", ["zero"]),
        ("n.x", []),
        ("n[]", []),
        ("missing", []),
    ],
)
def test_paths(path: str, values: list[Any]) -> None:
    assert JsonPath(path).values(VALUE) == values


@pytest.mark.parametrize("path", ["", ".", "a..b", "a[", "a]b", "a[b]", "a[=x]", "a.[]x"])
def test_wrong_paths(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        JsonPath(path)


def test_conditions() -> None:
    assert Requirement({"n": 1, "a.0.t": True}).is_met(VALUE)
    assert Requirement({}).is_met(VALUE)
    for condition in ({"n": True}, {"n": 2}, {"missing": ""}, {"a.0.t": 1}):
        assert not Requirement(condition).is_met(VALUE)


VALUES: dict[str, Any] = {"x": 2, "f": 0.5, "list": ["a"], "two": ["a", "b"], "flag": True, "text": "t"}


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("{x}", 2),
        ("{none}", ABSENT),
        ({"constant": "x: {x}"}, "x: {x}"),
        ({"a": "{none}", "b": "{x}"}, {"b": 2}),
        ({"a": {"b": "{none}"}}, ABSENT),
        ({"a": {}, "b": []}, {"a": {}, "b": []}),
        ([{"a": "{none}"}], ABSENT),
        (["{none}", 1], [1]),
        ({"constant": "{x}"}, "{x}"),
        ({"constant": {"from": "x"}}, {"from": "x"}),
        ({"from": "none", "default": 3}, 3),
        ({"from": "x", "factor": 100}, 200),
        ({"from": "f", "factor": 100}, 50.0),
        ({"from": "x", "factor": 0.5}, 1.0),
        ({"from": "x", "max": 1}, 1),
        ({"from": "f", "min": 1}, 1),
        ({"from": "x", "omit": [2]}, ABSENT),
        ({"from": "x", "map": {"2": {"y": "{text}"}}}, {"y": "t"}),
        ({"from": "flag", "map": {"true": "yes"}}, "yes"),
        ({"from": "x", "map": {"3": 1}, "otherwise": "{text}"}, "t"),
        ({"from": "text", "as": "list"}, ["t"]),
        ({"from": "list", "as": "scalar"}, "a"),
        ({"from": "x", "as": "text"}, "2"),
    ],
)
def test_templates(template: Any, result: Any) -> None:
    assert JsonTemplate(template, "body").render(scope_of(VALUES)) == result


@pytest.mark.parametrize(
    "leaf", [{"from": "x", "map": {"3": 1}}, {"from": "two", "as": "scalar"}, {"from": "two", "max_items": 1}]
)
def test_values_that_a_template_refuses(leaf: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        JsonTemplate(leaf, "body").render(scope_of(VALUES))
    assert caught.value.field == leaf["from"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"anwser": {}}, "unknown field `anwser`"),
    "nested": ({"answer": {"framing": "xml"}}, r"\$.answer.framing"),
    "no text": ({"answer": {"text": []}}, "answer.text is required"),
    "path": ({"request": {"path": "x"}}, "request.path must begin with /"),
    "stream's path": ({"request": {"stream_path": "x"}}, "request.path must begin with /"),
    "leaf": ({"request": {"body": {"t": {"from": "x", "fctor": 1}}}}, "request.body.t: .*`fctor`"),
    "nested leaf": ({"messages": {"message": {"a": [{"from": "x", "a": 1}]}}}, r"messages.message.a\[0\]: .*`a`"),
    "known leaf": ({"request": {"body": {"t": {"from": "x", "fctor": 1}}}}, "allowed: from, default, map"),
    "path's value": ({"request": {"path": "/{modle}"}}, "request.path may contain {model}"),
    "part of a text": ({"request": {"body": {"t": "Q: {prompt}"}}}, "request.body.t: {prompt} must be the whole text"),
    "message's value": ({"messages": {"message": {"c": "{contnt}"}}}, "message: .* {contnt}; there are: role, content"),
    "part's value": ({"messages": {"image": {"c": "{text}"}}}, "image: .* {text}; there are: media_type, data, url"),
    "tool's value": ({"tool": {"n": "{nam}"}}, "tool: there is no value {nam}; there are: name, desc"),
    "known keys": ({"answer": {"usage": {"promt": "a"}}}, "`promt` .*; allowed: prompt, completion, cached, reasoning"),
    "known values": ({"answer": {"framing": "xml"}}, "allowed: 'json', 'json-array', 'ndjson', 'sse'"),
    "known roles": ({"messages": {"roles": {"alien": "x"}}}, "allowed: 'assistant', 'system', 'tool', 'user'"),
    "known kinds": ({"errors": {"kinds": {"x": "bad"}}}, "allowed: 'access', 'away', 'busy'"),
    "no reason": ({"answer": {"finish": {"absent": ""}}}, "answer.finish: it must have path and map, or absent"),
    "no end": ({"stream": {"framing": "sse"}}, "stream.end: one of mark, where and eof, or finish.path, is required"),
    "place": ({"answer": {"text": "a[b"}}, "answer.text: 'a\\[b' is not a path"),
    "stream's place": ({"stream": {"usage": {"prompt": "a["}}}, "stream.usage: 'a\\[' is not a path"),
    "reason": ({"answer": {"finish": {"map": {"x": "ended"}}}}, r"\$.answer.finish.map"),
    "kind": ({"errors": {"kinds": {"x": "bad"}}}, r"\$.errors.kinds"),
    "template": ({"prompt": {"template": "{% for %}"}}, "prompt.template"),
    "header": ({"request": {"headers": {"Cookie": "x"}}}, "'Cookie' can't be set here"),
    "key": ({"key": {"header": "a b"}}, r"\$.key.header"),
    "check": ({"check_path": "x"}, "check_path must begin with /"),
    "role": ({"messages": {"roles": {"alien": "x"}}}, r"\$.messages.roles"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_mappings_name_file_and_key(case: str, tmp_path: Path) -> None:
    changes, problem = BAD[case]
    (tmp_path / "mine.toml").write_text(
        '[request]\npath = "/x"\nbody = {}\n[answer]\ntext = "a"\nfinish.absent = "stop"\n'
    )
    settings = {"base_url": "http://127.0.0.1:9", "file": "mine.toml", "overrides": changes}
    with pytest.raises(SetupError, match=problem) as caught:
        load(folder(settings, tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/pipeline.toml: [http]: {tmp_path}/mine.toml: ")


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "one of use, file and mapping is required"),
    "two": ({"use": "ollama", "file": "x"}, "one of use, file and mapping is required"),
    "name": ({"use": "../x"}, "there is no mapping '../x'; there are: anthropic, "),
    "file": ({"file": "missing.toml"}, "missing.toml can't be read: No such file"),
    "TOML": ({"file": "broken.toml"}, "broken.toml is not valid TOML"),
    "unknown": ({"use": "ollama", "modle": "x"}, "unknown field `modle`"),
    "models": ({"use": "ollama", "models": "*"}, "models must be a table"),
    "both": ({"use": "ollama", "models": {"a": "b"}, "model": "x"}, "excludes model"),
    "URL": ({"mapping": MINIMAL}, "base_url is required"),
    "inline": ({"mapping": {"answer": {}}}, "mapping: .*`request`"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_wrong_settings(case: str, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("a = ")
    settings, problem = BAD_SETTINGS[case]
    with pytest.raises(SetupError, match=problem):
        load(folder(settings, tmp_path))


def test_changes_are_merged() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {}}) == {"a": {"b": 1, "c": 4}, "d": {}}
    with pytest.raises(BadMapping, match="the mapping 'ollama'"):
        read_api("ollama", None, {"answer": 7})


async def test_a_mapping_in_the_settings_with_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(call: Call) -> None:
        await call.reply({"a": call.json["m"], "why": "end"})

    mapping = {
        "request": {"path": "/{model}", "body": {"m": "{model}"}, "headers": {"X-Team": "$TEAM"}},
        "answer": {"text": "a", "finish": {"path": "why", "map": {"end": "stop"}}},
    }
    monkeypatch.setenv("TEAM", "t")
    async with scripted_server(script) as server:
        settings = {"mapping": mapping, "models": {"x": "up/1", "y": "up/2"}, "base_url": f"{server.url}/api"}
        pipeline = load(folder(settings))
        async with running(pipeline) as reports:
            assert [state.name for state in reports[0]] == ["x", "y"]
            assert summary(await collect(pipeline, chat(model="y"))) == Summary(text="up/2", finish="stop")
    assert (server.calls[0].path, server.calls[0].headers["x-team"]) == ("/api/up%2F2", "t")
    assert "x-team" not in server.checks[0].headers


def reader(prompt: str | None = None, **answer: Any) -> MappedReader:
    api = read_api("", None, merged(MINIMAL, {"stream": {"framing": "ndjson", "end": {"eof": True}, **answer}}))
    return MappedReader(api.stream, prompt, calls_allowed=False, scrub=str)


def test_cumulative_texts_with_the_prompt() -> None:
    mapped = reader("Q:", text_is="cumulative", has_prompt=True, finish={"absent": "stop"})
    texts = [list(mapped.push(f'{{"a": "{text}"}}\n'.encode())) for text in ("Q:", "Q:A", "Q:AB", "Q:AB")]
    assert texts == [[], [Text("A")], [Text("B")], []]
    with pytest.raises(UpstreamFailed, match="changed the beginning"):
        list(mapped.push(b'{"a": "Q:x"}\n'))


def test_the_prompt_before_the_first_delta() -> None:
    mapped = reader("Q:", has_prompt=True)
    texts = [list(mapped.push(f'{{"a": "{text}"}}\n'.encode())) for text in ("Q:A", "Q:")]
    assert texts == [[Text("A")], [Text("Q:")]]


def test_events_are_filtered_by_name() -> None:
    mapped = reader(framing="sse", events=["token"])
    data = b'event: other\ndata: {"a": "x"}\n\nevent: token\ndata: {"a": "y"}\n\ndata: {"a": "z"}\n\n'
    assert list(mapped.push(data)) == [Text("y")]


@pytest.mark.parametrize(
    ("end", "data"), [({"mark": "<end>"}, b"<end>\n"), ({"where": {"last": True}}, b'{"last": true}\n')]
)
def test_ends(end: dict[str, Any], data: bytes) -> None:
    mapped = reader(end=end, finish={"absent": "stop"})
    assert list(mapped.push(b'{"a": "x"}\n' + data + b"not JSON\n")) == [Text("x")]
    assert mapped.is_complete
    assert summary([Text("x"), *mapped.finish()]) == Summary(text="x", finish="stop")


def test_a_complete_answer_without_a_reason_is_an_error_unless_it_is_expected() -> None:
    mapped = reader()
    list(mapped.push(b'{"a": "x"}\n'))
    with pytest.raises(UpstreamFailed, match="no finish reason"):
        list(mapped.finish())


def test_a_text_that_is_none() -> None:
    with pytest.raises(UpstreamFailed, match="no text where it is expected"):
        list(reader().push(b'{"a": 7}\n'))
