"""Makes the stand-in importable as `hayhooks`."""

import importlib.util
import sys
from importlib import import_module

_PACKAGE = "anyserve_worker.pipelines.wrappers.standin"
_MODULES = {
    "hayhooks": _PACKAGE,
    "hayhooks.callbacks": f"{_PACKAGE}.callbacks",
    "hayhooks.chainlit_events": f"{_PACKAGE}.chainlit_events",
    "hayhooks.events": f"{_PACKAGE}.events",
    "hayhooks.open_webui": f"{_PACKAGE}.open_webui",
    # Where wrappers for older versions find the same names.
    "hayhooks.server": _PACKAGE,
    "hayhooks.server.logger": f"{_PACKAGE}.log",
    "hayhooks.server.pipelines": _PACKAGE,
    "hayhooks.server.pipelines.utils": _PACKAGE,
    "hayhooks.server.utils": _PACKAGE,
    "hayhooks.server.utils.base_pipeline_wrapper": f"{_PACKAGE}.base",
}


def install_stand_in() -> bool:
    """Has no effect if the package hayhooks is installed. Returns whether it is the stand-in that wrappers import."""
    if sys.modules.get("hayhooks") is import_module(_PACKAGE):
        return True
    if importlib.util.find_spec("hayhooks"):
        return False
    sys.modules.update({name: import_module(module) for name, module in _MODULES.items()})
    return True
