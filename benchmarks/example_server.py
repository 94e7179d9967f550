"""Runs llama-cpp-python's `examples/server/server.py` without its library for images and audio.

    python example_server.py SERVER.PY -C CONFIG.JSON

The worker's wheel leaves that library (libmtmd) out. The server imports it at its top, but needs it only for models
with a projector.
"""

import runpy
import sys
import types

sys.modules["llama_cpp.mtmd_cpp"] = types.ModuleType("llama_cpp.mtmd_cpp")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
