"""Wrappers find hayhooks' names where the package is missing, and the package itself where it is installed."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.pipelines.wrappers.standin import (
    chat_messages_from_openai_response,
    default_on_pipeline_end,
    default_on_tool_call_end,
    default_on_tool_call_start,
    get_input_files,
    get_last_user_input_text,
    get_last_user_message,
    log,
)
from anyserve_worker.pipelines.wrappers.standin.log import Log
from tests.anyserve_worker.pipelines.wrappers import haystack
from tests.anyserve_worker.pipelines.wrappers.haystack import ChatMessage, ToolCall
from tests.anyserve_worker.pipelines.wrappers.wrappers import started, text, write_wrapper


async def test_a_wrapper_imports_the_stand_in(tmp_path: Path) -> None:
    source = """
        from hayhooks import BasePipelineWrapper, get_last_user_message, log
        from hayhooks.callbacks import default_on_tool_call_start
        from hayhooks.chainlit_events import create_custom_element_event
        from hayhooks.events import PipelineEvent, create_notification_event
        from hayhooks.open_webui import (
            create_chat_completion_event, create_details_tag, create_message_event, create_replace_event,
            create_source_event, create_status_event,
        )
        from hayhooks.server.logger import log as older_log
        from hayhooks.server.pipelines.utils import streaming_generator
        from hayhooks.server.utils.base_pipeline_wrapper import BasePipelineWrapper as OlderBase
        assert OlderBase is BasePipelineWrapper and older_log is log

        class PipelineWrapper(BasePipelineWrapper):
            def setup(self):
                assert self.pipeline is None
            def run_chat_completion(self, model, messages, body):
                yield create_status_event("working")
                yield create_custom_element_event("Card", {"a": 1})
                yield create_notification_event("note", notification_type="success")
                yield create_message_event("note")
                yield get_last_user_message(messages)
                yield create_details_tag("tool", "a summary", "its content")
    """
    pipeline, models = await started(write_wrapper(tmp_path, source))
    assert models[0].tasks == ("chat",)
    details = '<details type="tool" done="true">\n<summary>a summary</summary>\n\nits content\n</details>\n\n'
    assert await text(pipeline) == f"Hello{details}"


async def test_an_installed_hayhooks_is_used(tmp_path: Path) -> None:
    (tmp_path / "hayhooks.py").write_text("NAME = 'the package'")
    pipeline, _ = await started(
        write_wrapper(tmp_path, "from hayhooks import NAME\ndef run_chat_completion(messages): return NAME")
    )
    assert await text(pipeline) == "the package"


async def test_names_that_only_hayhooks_has_are_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="SSEStream needs the package hayhooks, which isn't installed here"):
        await started(write_wrapper(tmp_path, "from hayhooks import SSEStream"))


async def test_pipelines_are_haystacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    haystack.install(monkeypatch)
    source = """
        from hayhooks import AsyncPipeline, Pipeline
        from haystack import Pipeline as Expected
        def run_chat_completion(messages): return str(Pipeline is AsyncPipeline is Expected)
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "True"


async def test_the_stand_in_needs_no_haystack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haystack", None)
    source = "from hayhooks import streaming_generator\ndef run_chat_completion(messages): return 'Hello'"
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "Hello"


def test_events_have_hayhooks_form() -> None:
    from anyserve_worker.pipelines.wrappers.standin.open_webui import create_replace_event, create_status_event

    status = create_status_event("Working", done=True)
    assert status.to_event_dict() == {
        "type": "status",
        "data": {"description": "Working", "done": True, "hidden": False},
    }
    assert create_replace_event("new").to_event_dict() == {"type": "replace", "data": {"content": "new"}}


def test_ready_made_callbacks() -> None:
    event = default_on_tool_call_start("weather", "{}", "call_1")
    assert event
    assert event.to_event_dict()["data"]["description"] == "Calling 'weather' tool..."
    assert default_on_tool_call_start("", None, None) is None
    status, details = default_on_tool_call_end("weather", {"city": "Paris"}, "sunny", False)
    assert not isinstance(status, str)
    assert status.data.done
    assert isinstance(details, str)
    assert "sunny" in details
    status, notification = default_on_tool_call_end("weather", {}, "sunny", True)
    assert not isinstance(status, str)
    assert status.data.hidden
    assert not isinstance(notification, str)
    assert notification.data.type == "error"
    assert default_on_pipeline_end({"a": 1}) == "{'a': 1}"


# ---- Conversations


def test_the_last_message_of_the_user() -> None:
    parts = [
        {"type": "text", "text": "What"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "is it?"},
    ]
    assert get_last_user_message([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]) == "Hi"
    assert get_last_user_message([{"role": "user", "content": parts}]) == "What\nis it?"
    assert get_last_user_message([ChatMessageLike("user", "Hello")]) == "Hello"
    assert get_last_user_message([{"role": "system", "content": "Be kind."}]) is None


class ChatMessageLike:
    def __init__(self, role: str, content: str) -> None:
        self.role, self.content = role, content


def test_the_last_text_of_the_user_among_input_items() -> None:
    parts = [{"type": "input_text", "text": text} for text in ("first", "last")]
    assert get_last_user_input_text([{"role": "user", "content": "Hi"}, {"type": "function_call"}]) == "Hi"
    assert get_last_user_input_text([{"type": "message", "role": "user", "content": parts}]) == "last"
    assert get_last_user_input_text([{"role": "assistant", "content": "Hi"}]) is None


def test_files_of_the_user() -> None:
    file = {"type": "input_file", "file_id": "file-1"}
    content = [{"type": "input_text", "text": "Read"}, file, {"type": "input_file", "file_data": "x"}]
    assert get_input_files([{"role": "user", "content": content}, {"role": "user", "content": "Hi"}]) == [file]


def test_input_items_become_haystacks_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    haystack.install(monkeypatch)
    items: list[Any] = [
        {"type": "message", "role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "print()"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "function_call_output", "call_id": "elsewhere", "output": {"n": 3}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done"}]},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "broken"},
    ]
    first, second = ToolCall("f", {"x": 1}, "c1"), ToolCall("g", {"input": "print()"}, "c2")
    assert chat_messages_from_openai_response(items) == [
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "a\nb"),
        ChatMessage("assistant", tool_calls=[first, second]),
        ChatMessage("tool", "one", origin=first),
        ChatMessage("tool", "two", origin=second),
        ChatMessage("tool", '{"n": 3}', origin=ToolCall("function", {}, "elsewhere")),
        ChatMessage("assistant", "Done"),
        ChatMessage("assistant", tool_calls=[ToolCall("f", {}, "c3")]),
    ]


# ---- log


def test_the_log_formats_as_loguru_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    log.trace("{} and {name}", 1, name="two")
    log.debug("{not formatted}")
    log.info({"an": "object"})
    log.success("done")
    log.warning("{missing} {}", 1)
    log.critical("worst")
    log.bind(request="r1").error("failed")
    log.opt(colors=True).info("<yellow>[weather]</yellow> <bold>x</bold> a<b")
    log.opt(lazy=True).info("{}", lambda: "computed")
    log.log("WARNING", "by name")
    log.log(35, "by number")
    with log.contextualize(request="r1"):
        log.info("inside")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (5, "1 and two"),
        (10, "{not formatted}"),
        (20, "{'an': 'object'}"),
        (25, "done"),
        (30, "{missing} {}"),
        (50, "worst"),
        (40, "failed | request='r1'"),
        (20, "[weather] x a<b"),
        (20, "computed"),
        (30, "by name"),
        (35, "by number"),
        (20, "inside"),
    ]
    assert {record.filename for record in caplog.records} == {Path(__file__).name}


def test_the_log_has_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("of the wrapper")
    try:
        raise error
    except ValueError:
        log.exception("first")
        log.opt(exception=True).error("second")
    log.opt(exception=error).error("third")
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [error] * 3
    assert {record.filename for record in caplog.records} == {Path(__file__).name}


def test_messages_below_the_level_are_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    calls: list[int] = []
    Log().opt(lazy=True).debug("{}", lambda: calls.append(1))
    assert not calls
    assert not caplog.records
