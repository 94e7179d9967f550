"""llama.cpp's constants and structs: the worker starts only with the library version that it was written for."""

import ctypes
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from anyserve_worker.core.errors import LoadError
from anyserve_worker.core.options import CACHE_TYPES, FLASH_ATTENTION
from anyserve_worker.llama import constants

ROOT = Path(__file__).parents[3]
HEADERS = "".join((Path(llama_cpp.__file__).parent / "include" / name).read_text() for name in ("llama.h", "ggml.h"))
"""Text of the headers that the installed library was compiled with."""


class Changed:
    """llama_cpp with changed attributes; None stands for a missing one."""

    def __init__(self, **changed: Any) -> None:
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        if name not in self._changed:
            return getattr(llama_cpp, name)
        if self._changed[name] is None:
            raise AttributeError(name)
        return self._changed[name]


def without_comments(code: str) -> str:
    return re.sub(r"[ \t]*//.*", "", code)


def type_name(number: int) -> bytes:
    return {number: name for name, number in constants.CACHE_TYPES.items()}[number].encode()


def struct(*fields: str) -> type[ctypes.Structure]:
    return type("struct", (ctypes.Structure,), {"_fields_": [(field, ctypes.c_int) for field in fields]})


def defaults(**changed: int) -> Callable[[], Any]:
    params = llama_cpp.llama_context_default_params()
    for field, value in changed.items():
        setattr(params, field, value)
    return lambda: params


CONTEXT_FIELDS = constants.FIELDS["llama_context_params"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"GGML_TYPE_Q8_0": 9}, "GGML_TYPE_Q8_0 is 9, not 8"),
        ({"LLAMA_LOAD_MODE_MLOCK": 4}, "LLAMA_LOAD_MODE_MLOCK is 4, not 2"),
        ({"LLAMA_FLASH_ATTN_TYPE_AUTO": None}, "LLAMA_FLASH_ATTN_TYPE_AUTO is None, not -1"),
        ({"llama_pos": ctypes.c_int64}, "sizeof(llama_pos) is 8, not 4"),
        ({"llama_token": None}, "sizeof(llama_token) is None, not 4"),
        (
            {"llama_batch": struct(*constants.FIELDS["llama_batch"], "more")},
            "fields of llama_batch is n_tokens token embd pos n_seq_id seq_id logits more, not n_tokens token embd pos "
            "n_seq_id seq_id logits",
        ),
        (
            {"llama_context_params": struct("ctx_other", *CONTEXT_FIELDS[1:])},
            f"fields of llama_context_params is {' '.join(CONTEXT_FIELDS[1:])}, not {' '.join(CONTEXT_FIELDS)}",
        ),
        ({"llama_context_default_params": defaults(type_v=8)}, "default type_v of llama_context_params is 8, not 1"),
    ],
)
def test_a_library_with_a_different_constant_is_rejected(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(LoadError) as caught:
        constants.check(Changed(**changed), type_name)
    assert str(caught.value) == f"llama_cpp {llama_cpp.__version__}: {problem}; llama-cpp-python 0.3.36 is needed"


def test_a_type_with_another_name_in_the_library_is_rejected() -> None:
    def renumbered(number: int) -> bytes:
        return b"i8" if number == 30 else type_name(number)

    with pytest.raises(LoadError, match=r"ggml_type_name\(30\) is i8, not bf16;"):
        constants.check(Changed(), renumbered)


def test_the_installed_library_is_accepted() -> None:
    from anyserve_worker.llama import native

    assert native.llama is llama_cpp


@pytest.mark.slow
def test_the_worker_ends_with_one_line_where_a_constant_differs() -> None:
    code = """if True:
        import sys
        from anyserve_worker.llama import constants
        constants.CONSTANTS["GGML_TYPE_F16"] = 9
        sys.argv = ["anyserve_worker", "--model", "pyproject.toml"]
        from anyserve_worker.__main__ import main
        main()
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        f"Error: llama_cpp {llama_cpp.__version__}: GGML_TYPE_F16 is 1, not 9; llama-cpp-python 0.3.36 is needed\n"
    )


# ---- The tables


def test_the_tables_are_for_the_pinned_release() -> None:
    worker = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["worker"]
    assert f"llama-cpp-python=={constants.PINNED}" in worker


def test_every_option_has_a_value() -> None:
    assert set(constants.CACHE_TYPES) == set(CACHE_TYPES)
    assert set(constants.FLASH_ATTENTION_TYPES) == set(FLASH_ATTENTION)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *constants.CONSTANTS.items(),
        ("GGML_TYPE_BF16", constants.CACHE_TYPES["bf16"]),
        ("GGML_LOG_LEVEL_ERROR", constants.LOG_LEVEL_ERROR),
    ],
)
def test_values_are_equal_to_those_of_the_headers(name: str, value: int) -> None:
    """A header has them as an enum member or as a macro."""
    defined = re.findall(rf"^\s*(?:#define )?{name}\s*(?:=|\s)\s*(-?\d+),?$", without_comments(HEADERS), re.MULTILINE)
    assert defined == [str(value)]


def test_the_status_of_a_full_memory_is_equal_to_the_documented_one() -> None:
    pattern = r"// +(\d) - could not find a KV slot for the batch.*\n(?: *//.*\n)* *LLAMA_API int32_t llama_decode"
    described = re.search(pattern, HEADERS)
    assert described
    assert int(described[1]) == constants.DECODE_NO_ROOM


@pytest.mark.parametrize("name", constants.FIELDS)
def test_structs_of_llama_cpp_have_the_fields_of_the_headers_in_order(name: str) -> None:
    """The structs of the Python package are written by hand."""
    body = re.search(rf"struct {name} {{\n(.*?)\n    }}", HEADERS, re.DOTALL)
    assert body
    declared = re.findall(r"(\w+)\s*;", without_comments(body[1]))
    assert declared == [field for field, *_ in getattr(llama_cpp, name)._fields_]
