"""The `pipeline.toml` of a pipeline: kinds, limits, tables, and wrong keys."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.settings import read_settings

DEFAULTS = Limits(concurrency=3)


def folder_with(tmp_path: Path, toml: str | None, *, wrapper: bool = True) -> Path:
    folder = tmp_path / "p"
    folder.mkdir()
    if toml is not None:
        (folder / "pipeline.toml").write_text(toml)
    if wrapper:
        (folder / "pipeline_wrapper.py").touch()
    return folder


def test_a_wrapper_needs_no_settings(tmp_path: Path) -> None:
    settings = read_settings(folder_with(tmp_path, None), DEFAULTS)
    assert (settings.kind, settings.limits, settings.python, settings.table) == ("wrapper", DEFAULTS, "", {})


def test_every_setting_is_read(tmp_path: Path) -> None:
    toml = """
        kind = "wrapper"
        python = "bin/python"
        python_path = ["lib", "/absolute"]
        [limits]
        concurrency = 1
        queue = 0
        timeout = 2
        idle_timeout = 3.5
        stall_timeout = 4
        memory = 5
        [wrapper]
        anything = [1, "x"]
        since = 2026-01-02
        """
    folder = folder_with(tmp_path, toml)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    settings = read_settings(folder, DEFAULTS)
    assert settings.limits == Limits(1, 0, 2, 3.5, 4, 5)
    assert settings.table == {"anything": [1, "x"], "since": "2026-01-02"}
    assert settings.python == str(folder / "bin/python")
    assert settings.python_path == (str(folder / "lib"), "/absolute")


@pytest.mark.parametrize(
    ("limits", "idle_timeout"),
    [("", None), ("[limits]\ntimeout = 900", None), ("[limits]\nidle_timeout = 5", 5)],
)
def test_a_whole_answer_of_an_upstream_is_not_idle(limits: str, idle_timeout: float | None, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, f'kind = "openai"\n{limits}\n', wrapper=False)
    defaults = replace(DEFAULTS, idle_timeout=9)  # for wrappers
    assert read_settings(folder, defaults).limits.idle_timeout == idle_timeout


def test_limits_that_are_not_set_are_the_defaults(tmp_path: Path) -> None:
    settings = read_settings(folder_with(tmp_path, "[limits]\nqueue = 7"), DEFAULTS)
    assert settings.limits == Limits(concurrency=3, queue=7)


def test_other_kinds_have_no_wrapper(tmp_path: Path) -> None:
    toml = 'kind = "openai"\n[openai]\nbase_url = "http://x"'
    settings = read_settings(folder_with(tmp_path, toml, wrapper=False), DEFAULTS)
    assert (settings.kind, settings.table) == ("openai", {"base_url": "http://x"})


@pytest.mark.parametrize(
    ("toml", "wrapper", "problem"),
    [
        ("limit = 1", True, "Object contains unknown field `limit`"),
        ("[limits]\nconcurency = 1", True, "Object contains unknown field `concurency` - at `$.limits`"),
        ("[limits]\nconcurrency = 0", True, "Expected `int` >= 1 - at `$.limits.concurrency`"),
        ("[limits]\ntimeout = '1'", True, "Expected `float`, got `str` - at `$.limits.timeout`"),
        ("kind = 'grpc'", True, "Invalid enum value 'grpc' - at `$.kind`"),
        ("kind = 'wrapper'", False, "`kind` is `wrapper`, but the folder has no pipeline_wrapper.py"),
        ("", False, "`kind` is missing, since the folder has no pipeline_wrapper.py"),
        ("kind = 'http'\n[openai]", False, "the table `openai` is for pipelines of that kind, and `kind` is `http`"),
        ("kind = 'http'\npython = 'x'", False, "`python` is for wrappers, and `kind` is `http`"),
        ("python = 'none'", True, "`python`: there is no file "),
        ("kind =", True, "Invalid value (at end of document)"),
        ("kind = '\xff'".encode("latin-1").decode("latin-1") + "\x00", True, ""),
    ],
)
def test_wrong_settings_are_refused_with_file_and_key(tmp_path: Path, toml: str, wrapper: bool, problem: str) -> None:
    folder = folder_with(tmp_path, toml, wrapper=wrapper)
    with pytest.raises(SetupError) as caught:
        read_settings(folder, DEFAULTS)
    assert str(caught.value).startswith(f"{folder / 'pipeline.toml'}: ")
    assert problem in str(caught.value)
