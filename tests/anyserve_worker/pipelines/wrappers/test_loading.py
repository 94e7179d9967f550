"""The folder of a wrapper is a package; its class or functions decide its tasks; errors name file and line."""

import logging
import sys
from pathlib import Path

import pytest

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState
from anyserve_worker.pipelines.wrappers import load
from tests.anyserve_worker.pipelines.wrappers.wrappers import request, started, text, write_wrapper

GREETING = "def run_chat_completion(messages): return 'Hello'"


async def test_a_wrapper_imports_modules_of_its_folder(tmp_path: Path) -> None:
    source = """
        from .words import GREETING
        from .nested.more import NAME
        def run_chat_completion(messages): return f"{GREETING} {NAME}"
    """
    folder = write_wrapper(tmp_path, source, name="my-first.wrapper 2")
    (folder.path / "words.py").write_text("GREETING = 'Hello'")
    (folder.path / "nested").mkdir()
    (folder.path / "nested" / "more.py").write_text("from ..words import GREETING\nNAME = GREETING.upper()")
    pipeline, models = await started(folder)
    assert await text(pipeline) == "Hello HELLO"
    assert models == [ModelState("my-first.wrapper 2", ("chat",))]


async def test_the_folders_own_init_is_executed(tmp_path: Path) -> None:
    folder = write_wrapper(tmp_path, "from . import NAME\ndef run_chat_completion(messages): return NAME")
    (folder.path / "__init__.py").write_text("NAME = 'from the package'")
    pipeline, _ = await started(folder)
    assert await text(pipeline) == "from the package"


async def test_equal_names_in_two_folders_are_different_modules(tmp_path: Path) -> None:
    answers = []
    for name in ("first", "second"):
        folder = write_wrapper(
            tmp_path, "from .words import WORD\ndef run_chat_completion(messages): return WORD", name=name
        )
        (folder.path / "words.py").write_text(f"WORD = {name!r}")
        answers.append(await text((await started(folder))[0]))
    assert answers == ["first", "second"]


async def test_a_folder_does_not_hide_a_package_of_its_name(tmp_path: Path) -> None:
    source = """
        import json, wave, wsgiref
        def run_chat_completion(messages): return json.dumps(hasattr(wave, "open") and bool(wsgiref.__doc__))
    """
    for name in ("json", "wave", "wsgiref"):  # imported before, a module, and a package
        pipeline, _ = await started(write_wrapper(tmp_path, source, name=name))
        assert await text(pipeline) == "true"


async def test_modules_are_found_beside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "shared_words.py").write_text("GREETING = 'Hello'")
    source = """
        from shared_words import GREETING
        def run_chat_completion(messages): return GREETING
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "Hello"


BASE = """
    class BasePipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body): raise NotImplementedError
        def run_chat_completion(self, model, messages, body): raise NotImplementedError
        async def run_response_async(self, model, input_items, body): raise NotImplementedError
        def run_response(self, model, input_items, body): raise NotImplementedError
"""
TASKS = {
    "def run_chat_completion(messages): ...": ("chat",),
    "async def run_response_async(input_items): ...": ("responses",),
    "def run_response(body): ...\nasync def run_chat_completion_async(body): ...": ("chat", "responses"),
    BASE
    + """
    class PipelineWrapper(BasePipelineWrapper):
        def run_response(self, model, input_items, body): ...
    """: ("responses",),
    BASE
    + """
    class Own(BasePipelineWrapper):
        async def run_chat_completion_async(self, model, messages, body): ...
    class PipelineWrapper(Own):
        pass
    """: ("chat",),
}


@pytest.mark.parametrize(("source", "tasks"), TASKS.items())
async def test_the_methods_decide_the_tasks(tmp_path: Path, source: str, tasks: tuple[str, ...]) -> None:
    _, models = await started(write_wrapper(tmp_path, source))
    assert models == [ModelState("greeter", tasks)]


async def test_a_blocking_method_is_used_where_the_asynchronous_one_is_the_base_classs(tmp_path: Path) -> None:
    source = """
    class PipelineWrapper(BasePipelineWrapper):
        def run_chat_completion(self, model, messages, body): return "blocking"
    """
    pipeline, _ = await started(write_wrapper(tmp_path, BASE, source))
    assert await text(pipeline) == "blocking"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_setup_runs_once_before_the_model_is_ready(tmp_path: Path, kind: str) -> None:
    source = f"""
        import asyncio
        running = []
        def loop_here():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return False
            return True
        {kind} setup(): running.append(loop_here())
        def run_chat_completion(messages): return str(running)
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == await text(pipeline) == f"[{kind == 'async def'}]"


async def test_the_docstring_describes_the_model(tmp_path: Path) -> None:
    source = '''
        class PipelineWrapper:
            """
            Greets people.

            In English.
            """
            def run_chat_completion(self, messages): ...
    '''
    _, models = await started(write_wrapper(tmp_path, source))
    assert models == [ModelState("greeter", ("chat",), description="Greets people.")]


PROBLEMS = {
    "import a_missing_module": ":1: ModuleNotFoundError: No module named 'a_missing_module'",
    "def run(:": ":1: SyntaxError: invalid syntax (pipeline_wrapper.py, line 1)",
    "from .words import missing": ": No module named",
    "1 / 0": ":1: ZeroDivisionError: division by zero",
    "raise SystemExit(3)": ":1: SystemExit: 3",
    "raise ValueError('first line\\nsecond line')": ":1: ValueError: first line",
    f"{GREETING}\ndef setup():\n    raise OSError": ":3: OSError",
    f"{GREETING}\nasync def setup():\n    raise OSError": ":3: OSError",
    "class PipelineWrapper:\n    def __init__(self): 1 / 0": ":2: ZeroDivisionError: division by zero",
    "def run_chat_completion(messages, temperature): ...": (
        ":1: run_chat_completion is called with the keywords model, messages, body, and headers if it has that "
        "parameter; it can't require temperature"
    ),
}


@pytest.mark.parametrize(("source", "problem"), PROBLEMS.items())
async def test_a_problem_names_file_and_line(tmp_path: Path, source: str, problem: str) -> None:
    with pytest.raises(SetupError) as raised:
        await started(write_wrapper(tmp_path, source))
    message = str(raised.value)
    assert message.startswith(str(tmp_path / "greeter" / "pipeline_wrapper.py"))
    assert problem in message
    assert "\n" not in message


async def test_the_log_has_the_traceback_of_a_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_wrapper(tmp_path, "from .words import WORD")
    (folder.path / "words.py").write_text("\nWORD = 1 / 0")
    with pytest.raises(SetupError, match=r"words\.py:2: ZeroDivisionError"):
        await started(folder)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_wrapper_without_a_chat_is_no_chat_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = """
    class PipelineWrapper(BasePipelineWrapper):
        def setup(self): raise AssertionError("must not be called")
        def run_api(self, question): ...
        def run_file_upload(self, filename, content_type, content, purpose): ...
    """
    with pytest.raises(SetupError, match="has no chat model: it must define run_chat_completion"):
        await started(write_wrapper(tmp_path, BASE, source))
    assert not caplog.records


async def test_settings_and_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"pipeline\.toml: the table `wrapper` must be empty, it has threads"):
        await started(write_wrapper(tmp_path, GREETING, threads=4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"pipeline_wrapper\.py is missing"):
        await load(Folder("empty", tmp_path / "empty")).start(lambda models: None)


async def test_nothing_is_imported_before_the_start(tmp_path: Path) -> None:
    load(write_wrapper(tmp_path, "raise AssertionError"))
    assert "greeter" not in sys.modules


async def test_sys_path_ends_with_the_folders_of_the_wrapper(tmp_path: Path) -> None:
    path = list(sys.path)
    pipeline, _ = await started(write_wrapper(tmp_path, GREETING))
    assert sys.path == [*path, str(tmp_path)]
    assert await text(pipeline, request()) == "Hello"
