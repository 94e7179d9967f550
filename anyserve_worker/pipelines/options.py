"""Options of pipelines on the command line. Each one is also an environment variable."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from anyserve_common.command_line import OptionMaker
from anyserve_worker.pipelines.limits import Limits

_option = OptionMaker({f"pipeline_{field.name}": field.default for field in fields(Limits)})
_seconds = click.FloatRange(min=0.1)


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    folder: Path
    """Its subfolders are the pipelines."""
    limits: Limits
    """Those of a pipeline that sets none."""
    python: str
    """Interpreter that runs wrappers."""
    log_level: str


FOLDER_TYPE = click.Path(exists=True, file_okay=False, path_type=Path)
FOLDER = _option(
    "--pipelines",
    type=FOLDER_TYPE,
    metavar="FOLDER",
    help="Folder whose subfolders are served as pipelines, beside the models. SIGHUP reads it again.",
)
OPTIONS = (
    _option(
        "--pipeline-concurrency",
        type=click.IntRange(min=1),
        help="Requests that a pipeline runs at once. This and the following are defaults, which the pipeline.toml of a "
        "pipeline overrides.",
    ),
    _option(
        "--pipeline-queue",
        type=click.IntRange(min=0),
        help="Requests that may wait for a pipeline beyond --pipeline-concurrency; further ones are rejected with "
        "RESOURCE_EXHAUSTED.",
    ),
    _option(
        "--pipeline-timeout",
        type=_seconds,
        help="Time that a request to a pipeline may take, and a pipeline to start.",
    ),
    _option(
        "--pipeline-idle-timeout",
        type=_seconds,
        help="Time that a running request to a wrapper may go without output. Upstreams and foreign APIs have limits "
        "of their own. Unset: --pipeline-timeout alone.",
    ),
    _option(
        "--pipeline-stall-timeout",
        type=_seconds,
        help="Time that the event loop of a pipeline may be blocked. Then the stacks of its threads are logged, and "
        "its process is replaced.",
    ),
    _option(
        "--pipeline-memory",
        type=click.IntRange(min=1),
        metavar="MIB",
        help="Resident memory of a pipeline's process above which another process takes over. Above 1.25 times as much "
        "it is killed. Unset: no limit.",
    ),
    _option(
        "--pipeline-python",
        default=None,
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Python interpreter that runs wrappers, such as that of an environment with their packages. Unset: the "
        "worker's own.",
    ),
)


def build(folder: Path | None, values: dict[str, Any]) -> PipelineOptions | None:
    """Builds the options from the values of OPTIONS. None: there is no folder."""
    if folder is None:
        return None
    limits = Limits(**{field.name: values[f"pipeline_{field.name}"] for field in fields(Limits)})
    return PipelineOptions(folder, limits, values["pipeline_python"] or sys.executable, values["log_level"])
