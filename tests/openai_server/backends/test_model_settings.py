"""The operator's settings for a model replace and complete the parameters that its backend reports."""

import pytest

from openai_server.backends.model_settings import NO_SETTINGS, ModelSettings
from openai_server.core.model_files import EVERY_MODEL, LOCAL_TOKENIZER

FOLDER = {"chat_template": "folder", "chat_template_tool_use": "folder's tools", "bos_token": "<s>"}
LOCAL = {LOCAL_TOKENIZER: "m"}


def test_without_settings_a_model_has_what_its_backend_reports() -> None:
    reported = {"chat_template": "T", "tasks": "embed"}
    assert NO_SETTINGS.applied("m", reported) == reported
    assert NO_SETTINGS.applied("m", {}) == {}


def test_a_template_replaces_all_templates_of_the_backend() -> None:
    reported = {"chat_template": "T", "chat_template_tool_use": "U", "bos_token": "<s>"}
    for templates in ({EVERY_MODEL: "new"}, {"m": "new", EVERY_MODEL: "other"}):
        assert ModelSettings(templates).applied("m", reported) == {"chat_template": "new", "bos_token": "<s>"}
    assert ModelSettings({"other": "new"}).applied("m", reported) == reported


@pytest.mark.parametrize(
    ("name", "template"),
    [("m", "M"), ("m@1", "M"), ("m@2", "second"), ("n", "all"), ("n@2", "all"), ("m@1@2", "all"), ("m2", "all")],
)
def test_a_version_has_the_settings_of_its_model_unless_it_has_its_own(name: str, template: str) -> None:
    templates = {"m": "M", "m@2": "second", EVERY_MODEL: "all"}
    assert ModelSettings(templates).applied(name, {})["chat_template"] == template
    described = {key: {"bos_token": value} for key, value in templates.items() if key}
    bos = {} if template == "all" else {"bos_token": template}
    assert ModelSettings({}, described).applied(name, {}) == bos


def test_a_folder_describes_what_the_backend_does_not_report() -> None:
    settings = ModelSettings({}, {"m": FOLDER})
    assert settings.applied("m", {}) == FOLDER
    assert settings.applied("m", {"bos_token": "B", "chat_template": ""}) == {**FOLDER, "bos_token": "B"}
    assert settings.applied("other", {}) == {}
    assert ModelSettings({EVERY_MODEL: "new"}, {"m": FOLDER}).applied("m", {}) == {
        "chat_template": "new",
        "bos_token": "<s>",
    }


def test_templates_of_a_folder_and_a_backend_are_not_mixed() -> None:
    settings = ModelSettings({}, {"m": FOLDER})
    assert settings.applied("m", {"chat_template": "T"}) == {"chat_template": "T", "bos_token": "<s>"}
    both = {"chat_template": "T", "chat_template_tool_use": "U"}
    assert settings.applied("m", both) == {**both, "bos_token": "<s>"}


@pytest.mark.parametrize(
    ("reported", "tasks"),
    [
        ({}, "generate,tokenize,detokenize"),
        ({"tasks": "embed"}, "embed,tokenize,detokenize"),
        ({"tasks": "generate,tokenize"}, "generate,tokenize,detokenize"),
    ],
)
def test_a_local_tokenizer_adds_its_tasks(reported: dict[str, str], tasks: str) -> None:
    assert ModelSettings({}, {"m": LOCAL}).applied("m", reported) == {**LOCAL, "tasks": tasks}


def test_a_backend_that_tokenizes_needs_no_local_tokenizer() -> None:
    reported = {"tasks": "detokenize,tokenize,generate"}
    assert ModelSettings({}, {"m": LOCAL}).applied("m", reported) == reported


def test_the_option_that_set_a_template_is_known() -> None:
    settings = ModelSettings({"a": "from the file"}, {"b": {"chat_template": "from the folder"}})
    assert settings.template_option("a", "from the file") == "--chat-template"
    assert settings.template_option("a@2", "from the file") == "--chat-template"
    assert settings.template_option("b", "from the folder") == "--tokenizer"
    assert settings.template_option("b", "reported") == settings.template_option("c", "from the file") == ""
