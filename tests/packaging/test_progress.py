import io

from scripts.progress import Activity, ProgressLine


def after(*lines: str) -> str:
    activity = Activity()
    for line in lines:
        activity.feed(line + "\n")
    return activity.line(125.4)


def test_the_steps_of_pip_and_uv_are_shown() -> None:
    assert after() == "resolving packages … 2:05"
    assert after("  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)") == "downloading llama_cpp_python … 2:05"
    assert after("  Building wheel for llama-cpp-python (pyproject.toml): started") == "configuring llama.cpp … 2:05"
    assert after("Prepared 3 packages in 3ms") == "installing 3 packages … 2:05"


def test_the_progress_of_the_compiler_is_shown() -> None:
    ninja = after("  [1/88] cc -c a.c", "  [44/88] c++ -c b.cpp", "  warning: [9/9] is not a step")
    assert ninja == f"compiling llama.cpp {'█' * 12}{'░' * 12}  50% (44 of 88) 2:05"


def test_the_bar_disappears_after_compiling() -> None:
    assert after("  [88/88] link", "Prepared 1 package in 3ms") == "installing 1 packages … 2:05"


def test_a_file_gets_no_redrawn_line_and_no_line_per_tick() -> None:
    stream = io.StringIO()
    progress = ProgressLine(stream, Activity())
    for _ in range(10):
        progress.tick()
    progress.clear()
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_line_redrawn() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = ProgressLine(stream, Activity())
    progress.tick()
    progress.tick()
    progress.clear()
    assert stream.getvalue() == "\r\x1b[Kresolving packages … 0:00" * 2 + "\r\x1b[K"
