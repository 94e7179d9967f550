"""Imports the `pipeline_wrapper.py` of a folder.

The folder is a package in `sys.modules`, so that the wrapper can import its own modules with `from .utils import x`.
The folder of all pipelines comes last on `sys.path`.
"""

import importlib
import importlib.util
import logging
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.core.pipeline import Folder
from anyserve_worker.pipelines.wrappers.standin.install import install_stand_in

FILE = "pipeline_wrapper.py"

_log = logging.getLogger(__name__)


def import_wrapper(folder: Folder) -> ModuleType:
    """Raises SetupError, and what the wrapper raises."""
    if folder.settings:
        keys = ", ".join(folder.settings)
        raise SetupError(f"{folder.path / 'pipeline.toml'}: the table `wrapper` must be empty, it has {keys}")
    if not (folder.path / FILE).is_file():
        raise SetupError(f"{folder.path / FILE} is missing")
    path = folder.path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    install_stand_in()
    return _import(_package_name(folder.name, path), path)


def setup_error(folder: Folder, error: BaseException) -> SetupError:
    """Logs the error with its traceback. Returns a line with the place in the folder's files."""
    if isinstance(error, SetupError):
        return error
    if error.__cause__ and not isinstance(error.__cause__, Exception):
        error = error.__cause__  # SystemExit of a thread
    _log.error("the pipeline %s can't be set up", folder.name, exc_info=error)
    text = str(error).strip().partition("\n")[0]
    return SetupError(f"{_place(folder, error)}: {type(error).__name__}{': ' if text else ''}{text}")


def _import(package: str, path: Path) -> ModuleType:
    init = path / "__init__.py"
    spec: ModuleSpec | None
    if init.is_file():
        spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(path)])
    else:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(path)]
    assert spec
    sys.modules[package] = importlib.util.module_from_spec(spec)
    if spec.loader:
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{Path(FILE).stem}")


def _package_name(name: str, path: Path) -> str:
    """The folder's name, without dots, and changed if it would hide an installed package of that name."""
    package = re.sub(r"\W", "_", name)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return f"pipeline_{package}"
    # The folder itself is found as a namespace package, which has no origin, or by its __init__.py.
    hides = spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent != path
    return f"pipeline_{package}" if hides or package in sys.modules else package


def _place(folder: Folder, error: BaseException) -> str:
    """File and line where the error is, or the last ones of the folder on the way to it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    path = folder.path.resolve()
    places = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    own = [place for place in places if place.startswith(f"{path}/")]
    return own[-1] if own else str(path / FILE)
