"""Pipelines that are new, changed, removed or broken when the folder is read again, and those that can't start."""

import logging
import os
import venv
from pathlib import Path

import pytest

from anyserve_worker.core.errors import LoadError
from anyserve_worker.pipelines import served_pipeline
from anyserve_worker.pipelines.limits import Limits
from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from tests.wire.pipelines import TICKS, WORDS, request, serving, text_of, write

BROKEN = "import a_module_that_does_not_exist"
COULD_NOT_START = ("UNAVAILABLE", "the pipeline could not be started")


def saying(text: str) -> str:
    return f"""
        import os

        class PipelineWrapper:
            def run_chat_completion(self, model, messages, body):
                return "{text}" + os.environ.get("FROM_FILE", "")
        """


async def test_a_changed_pipeline_takes_over_and_the_old_one_finishes(tmp_path: Path) -> None:
    write(tmp_path, "same", WORDS)
    write(tmp_path, "changing", TICKS)
    async with serving(tmp_path) as server:
        pids = server.pid("same"), server.pid("changing")
        stream = await server.stream(request("changing"))
        assert await stream.read()
        write(tmp_path, "changing", saying("new"))
        await server.pipelines.reload()
        assert text_of(await server.infer(request("changing"))) == "new"
        assert server.pid("same") == pids[0]
        n_events = len(stream.events)
        while len(stream.events) < n_events + 5:
            assert await stream.read()
        stream.call.cancel()
        await server.until(lambda: not os.path.exists(f"/proc/{pids[1]}"))


async def test_pipelines_come_and_go(tmp_path: Path) -> None:
    write(tmp_path, "a", saying("a"))
    path = write(tmp_path, "b", saying("b"))
    async with serving(tmp_path) as server:
        pid = server.pid("b")
        write(tmp_path, "c", saying("c"))
        (path / "pipeline_wrapper.py").unlink()
        await server.pipelines.reload()
        assert await server.states() == {"a": ("READY", ""), "c": ("READY", "")}
        assert text_of(await server.infer(request("c"))) == "c"
        stream = await (await server.stream(request("b"))).finish()
        assert stream.error[0] == "NOT_FOUND"
        await server.until(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_a_changed_pipeline_that_fails_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "p", saying("old"))
    async with serving(tmp_path) as server:
        pid = server.pid("p")
        write(tmp_path, "p", BROKEN)
        await server.pipelines.reload()
        assert (server.pid("p"), await server.states()) == (pid, {"p": ("READY", "")})
        assert text_of(await server.infer(request("p"))) == "old"
        assert "pipeline 'p' stays as it was" in caplog.text
        assert "pipeline_wrapper.py:1: ModuleNotFoundError" in caplog.text
        write(tmp_path, "p", saying("newer"))
        await server.pipelines.reload()
        assert text_of(await server.infer(request("p"))) == "newer"


async def test_a_broken_pipeline_leaves_the_others_and_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served_pipeline, "MIN_DELAY", 60)
    write(tmp_path, "broken", BROKEN)
    write(tmp_path, "settings", WORDS, pipeline_toml="[limits]\nconcurency = 1")
    write(tmp_path, "words", WORDS)
    async with serving(tmp_path) as server:
        states = {"broken": COULD_NOT_START, "settings": COULD_NOT_START, "words": ("READY", "")}
        assert await server.states() == states
        assert (await server.stub.ServerReady(pb.ServerReadyRequest())).ready
        assert await server.infer(request("words"))
        stream = await (await server.stream(request("broken"))).finish()
        assert stream.error == ("UNAVAILABLE", "model 'broken' is unavailable: the pipeline could not be started")
        assert "Object contains unknown field `concurency` - at `$.limits`" in caplog.text
        write(tmp_path, "broken", saying("repaired"))
        await server.pipelines.reload()
        assert text_of(await server.infer(request("broken"))) == "repaired"


async def test_a_pipeline_that_fails_to_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_pipeline, "MIN_DELAY", 0.05)
    write(tmp_path, "words", WORDS)
    source = f"""
        import pathlib

        class PipelineWrapper:
            def setup(self):
                assert pathlib.Path("{tmp_path}/database").exists()

            def run_chat_completion(self, model, messages, body):
                return "up"
        """
    write(tmp_path, "late", source)
    async with serving(tmp_path) as server:
        assert (await server.states())["late"] == COULD_NOT_START
        (tmp_path / "database").touch()
        await server.until(lambda: server.pid("late"))
        assert text_of(await server.infer(request("late"))) == "up"


async def test_a_failure_that_is_repeated_is_one_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served_pipeline, "MIN_DELAY", 0.02)
    write(tmp_path, "words", WORDS)
    write(tmp_path, "broken", BROKEN)
    async with serving(tmp_path) as server:
        await server.until(lambda: server.pipelines._served["broken"].n_restarts >= 3)
    records = [record for record in caplog.records if "broken" in record.getMessage()]
    failures = [record for record in records if "pipeline 'broken' can't be started" in record.getMessage()]
    assert len(failures) >= 3
    [detailed] = [record for record in records if record not in failures]
    assert "ModuleNotFoundError" in str(detailed.exc_text)


async def test_signals_that_come_while_the_folder_is_read_have_one_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "words", WORDS)
    async with serving(tmp_path) as server:
        for _ in range(50):
            server.pipelines.request_reload()
        write(tmp_path, "more", WORDS)
        await server.until(lambda: server.pid("more") if "more" in server.pipelines._served else 0)
        await server.until(lambda: not server.pipelines._reloads)
        assert caplog.text.count("again") <= 2
        write(tmp_path, "most", WORDS)
        server.pipelines.request_reload()
        await server.until(lambda: server.pid("most") if "most" in server.pipelines._served else 0)


@pytest.mark.slow
async def test_a_pipeline_that_takes_too_long_to_start_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "words", WORDS)
    write(tmp_path, "slow", "import time\ntime.sleep(60)")
    async with serving(tmp_path, Limits(timeout=3)) as server:
        assert (await server.states())["slow"] == COULD_NOT_START
        assert "it has not started within 3 s" in caplog.text
        assert 'pipeline_wrapper.py", line 2 in <module>' in caplog.text


@pytest.mark.parametrize("files", [{}, {"p/pipeline_wrapper.py": BROKEN}, {"p/readme.txt": "no pipeline"}])
async def test_a_worker_with_nothing_to_serve_does_not_start(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(LoadError, match=r"^none of the pipelines can be served$"):
        async with serving(tmp_path):
            pass


async def test_limits_and_the_interpreter_are_those_of_the_pipeline(tmp_path: Path) -> None:
    settings = """
        python = "environment/bin/python"
        python_path = ["../libraries"]
        [limits]
        concurrency = 2
        idle_timeout = 0.8
        """
    source = """
        import asyncio, sys
        from importlib.util import find_spec
        import greeting

        class PipelineWrapper:
            async def run_chat_completion_async(self, model, messages, body):
                async def words():
                    yield f"{greeting.TEXT} from {sys.executable}, {find_spec('msgspec')}"
                    await asyncio.sleep(60)
                return words()
        """
    path = write(tmp_path, "p", source, pipeline_toml=settings)
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "greeting.py").write_text("TEXT = 'hello'")
    venv.create(path / "environment")
    async with serving(tmp_path, Limits(concurrency=7)) as server:
        stream = await (await server.stream(request("p"))).finish()
        assert stream.text.startswith("hello from ")
        assert str(path) in stream.text
        assert stream.text.endswith(", None")  # nothing of the worker's environment
        assert stream.error == ("DEADLINE_EXCEEDED", "the model 'p' sent nothing for 0.8 s")
        assert server.pipelines._served["p"].definition.limits == Limits(concurrency=2, idle_timeout=0.8)


async def test_an_interpreter_that_can_t_be_run_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "words", WORDS)
    write(tmp_path, "p", WORDS, pipeline_toml="python = 'pipeline_wrapper.py'")
    async with serving(tmp_path) as server:
        assert (await server.states())["p"] == COULD_NOT_START
        assert "pipeline_wrapper.py: Permission denied" in caplog.text


async def test_the_environment_comes_from_the_folders_and_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("COMMON", "OWN", "REAL", "HAYSTACK_TELEMETRY_ENABLED")
    source = f"""
        import json, os

        class PipelineWrapper:
            def run_chat_completion(self, model, messages, body):
                return json.dumps([os.environ.get(name) for name in {names}])
        """
    (tmp_path / ".env").write_text("COMMON=common\nOWN=common\nREAL=common\n")
    write(tmp_path, "p", source, _env="OWN='own'\nREAL=own\n")
    monkeypatch.setenv("REAL", "real")
    monkeypatch.delenv("HAYSTACK_TELEMETRY_ENABLED", raising=False)
    async with serving(tmp_path) as server:
        assert text_of(await server.infer(request("p"))) == '["common", "own", "real", "False"]'
        assert "OWN" not in os.environ
        pid = server.pid("p")
        (tmp_path / "p" / ".env").write_text("OWN=changed\n")
        await server.pipelines.reload()
        assert server.pid("p") != pid
        assert text_of(await server.infer(request("p"))) == '["common", "changed", "real", "False"]'


async def test_the_counters_of_a_model_survive_its_processes(tmp_path: Path) -> None:
    write(tmp_path, "p", saying("old"))
    async with serving(tmp_path) as server:
        await server.infer(request("p"))
        write(tmp_path, "p", saying("new"))
        await server.pipelines.reload()
        await server.infer(request("p"))
        statistics = await server.stub.ModelStatistics(pb.ModelStatisticsRequest(name="p"))
        assert statistics.model_stats[0].inference_count == 2
        assert statistics.model_stats[0].inference_stats.success.count == 2
        config = (await server.stub.ModelConfig(pb.ModelConfigRequest(name="p"))).config
        assert config.parameters["tasks"].string_value == contract.TASK_CHAT
