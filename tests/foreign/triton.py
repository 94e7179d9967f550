"""Starts Triton from the environment that setup.py installs, with a repository of scripted models."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.foreign import setup
from tests.foreign.servers import triton_tensors


@dataclass(frozen=True)
class Model:
    """A model of the repository. `implementation` is a class in tests.foreign.servers; without one, the model has no
    code, as an ensemble or a model of the vLLM backend, or that of `source`."""

    config: str
    implementation: str = ""
    versions: Sequence[int] = (1,)
    source: Path | None = None
    """A model.py to copy."""


def _tensorrt_llm(*, accumulate_tokens: bool) -> Mapping[str, Model]:
    """The repository that TensorRT-LLM's backend ships."""

    def config(inputs: str, outputs: str, *, decoupled: bool = False, more: str = "") -> str:
        return triton_tensors.config(inputs=inputs, outputs=outputs, max_batch_size=64, decoupled=decoupled, more=more)

    ensemble = triton_tensors.config(
        inputs=triton_tensors.TRTLLM_INPUTS,
        outputs=triton_tensors.TRTLLM_OUTPUTS,
        platform="ensemble",
        max_batch_size=64,
        more=triton_tensors.ensemble_steps(),
    )
    accumulates = f'"accumulate_tokens" value: {{ string_value: "{str(accumulate_tokens).lower()}" }}'
    return {
        "preprocessing": Model(
            config(triton_tensors.PREPROCESSING_INPUTS, triton_tensors.PREPROCESSING_OUTPUTS),
            "triton_trtllm.Preprocessing",
        ),
        "tensorrt_llm": Model(
            config(triton_tensors.ENGINE_INPUTS, triton_tensors.ENGINE_OUTPUTS, decoupled=True),
            "triton_trtllm.Engine",
        ),
        "postprocessing": Model(
            config(triton_tensors.POSTPROCESSING_INPUTS, triton_tensors.POSTPROCESSING_OUTPUTS),
            "triton_trtllm.Postprocessing",
        ),
        "ensemble": Model(ensemble),
        "tensorrt_llm_bls": Model(
            config(
                triton_tensors.TRTLLM_INPUTS,
                triton_tensors.TRTLLM_OUTPUTS,
                decoupled=True,
                more=f"parameters {{ key: {accumulates} }}",
            ),
            "triton_trtllm.Bls",
        ),
    }


def _llmapi(*, decoupled: bool) -> Mapping[str, Model]:
    config = triton_tensors.config(
        inputs=triton_tensors.LLMAPI_INPUTS, outputs=triton_tensors.LLMAPI_OUTPUTS, decoupled=decoupled
    )
    return {"tensorrt_llm": Model(config, "triton_llmapi.TritonPythonModel")}


def _own(name: str, implementation: str, inputs: str, outputs: str, *, decoupled: bool = True) -> Mapping[str, Model]:
    config = triton_tensors.config(inputs=inputs, outputs=outputs, decoupled=decoupled)
    return {name: Model(config, f"triton_own_names.{implementation}")}


def _chat() -> Mapping[str, Model]:
    """The model of examples/triton_chat as it is, and with scripted answers."""
    config = (CHAT_MODEL / "config.pbtxt").read_text()
    return {
        CHAT_MODEL.name: Model(config, source=CHAT_MODEL / "1" / "model.py"),
        "scripted": Model(config, "triton_chat.Scripted"),
    }


CHAT_MODEL = setup.ROOT / "examples" / "triton_chat" / "model_repository" / "chat_model"
VLLM_CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
_CONTRACT = _own("contract", "Contract", triton_tensors.CONTRACT_INPUTS, triton_tensors.CONTRACT_OUTPUTS)
REPOSITORIES: Mapping[str, Mapping[str, Model]] = {
    "triton-vllm": {"vllm_model": Model(VLLM_CONFIG)},
    "triton-vllm-versions": {"vllm_model": Model(f"{VLLM_CONFIG}version_policy: {{ all {{ }} }}\n", versions=(1, 3))},
    "triton-trtllm": _tensorrt_llm(accumulate_tokens=True),
    "triton-llmapi": _llmapi(decoupled=True),
    "triton-llmapi-unary": _llmapi(decoupled=False),
    "triton-custom": _own("my_llm", "Custom", triton_tensors.CUSTOM_INPUTS, triton_tensors.CUSTOM_OUTPUTS),
    "triton-cumulative": _own(
        "grower", "Cumulative", triton_tensors.CUMULATIVE_INPUTS, triton_tensors.CUMULATIVE_OUTPUTS
    ),
    "triton-tutorial": _own(
        "mistral7b",
        "Tutorial",
        triton_tensors.TUTORIAL_INPUTS,
        triton_tensors.TUTORIAL_OUTPUTS,
        decoupled=False,
    ),
    "triton-contract": _CONTRACT,
    "triton-chat": _chat(),
    "triton-broken": {
        "a_broken_model": next(
            iter(_own("", "Broken", triton_tensors.CONTRACT_INPUTS, triton_tensors.CONTRACT_OUTPUTS).values())
        ),
        **_CONTRACT,
    },
}


def command(name: str, folder: Path, port: int) -> list[str]:
    """Writes the repository and the backends into `folder`, and returns the command that serves it on loopback."""
    repository, backends = folder / "models", folder / "backends"
    for model, settings in REPOSITORIES[name].items():
        _write_model(repository / model, settings)
    _write_backends(backends)
    tritonserver = _package() / "bin" / "tritonserver"
    return [
        str(tritonserver),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={_shared_memory(folder)}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--exit-on-error=false",
        "--exit-timeout-secs=3",
        "--log-verbose=0",
    ]


def variables() -> dict[str, str]:
    """Environment variables of the server. The Python that it embeds ignores PYTHONPATH, but takes the packages of the
    first environment in PATH; it finds this checkout as the working directory."""
    path = os.pathsep.join([str(setup.environment("triton") / "bin"), os.environ["PATH"]])
    return {"PATH": path, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"), "PYTHONDONTWRITEBYTECODE": "1"}


def clean_up(folder: Path) -> None:
    """Removes the shared memory that a server left, if it was killed."""
    for path in Path("/dev/shm").glob(f"{_shared_memory(folder)}*"):
        path.unlink()


def _shared_memory(folder: Path) -> str:
    """Returns the beginning of the names of the server's regions of shared memory."""
    return f"{folder.name}-{os.getpid()}-"


def _package() -> Path:
    return setup.site_packages("triton") / "pytriton" / "tritonserver"


def _write_model(folder: Path, model: Model) -> None:
    for version in model.versions:
        (folder / str(version)).mkdir(parents=True)
        if model.source:
            shutil.copy(model.source, folder / str(version) / "model.py")
        elif model.implementation:
            (folder / str(version) / "model.py").write_text(_import(model.implementation))
        elif "vllm" in model.config:
            (folder / str(version) / "model.json").write_text('{"model": "scripted"}')
    (folder / "config.pbtxt").write_text(model.config)


def _import(implementation: str) -> str:
    module, _, name = implementation.rpartition(".")
    return f"from tests.foreign.servers.{module} import {name} as TritonPythonModel\n"


def _write_backends(folder: Path) -> None:
    """The vLLM backend is one in Python: Triton reads its model.py from the backend's folder."""
    shutil.copytree(_package() / "backends", folder)
    stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    # The stub finds its libraries relative to its own place, so it is linked, not copied.
    (folder / "python" / "triton_python_backend_stub").symlink_to(_package() / stub)
    vllm = folder / "vllm"
    vllm.mkdir()
    (vllm / "model.py").write_text(_import("triton_vllm.TritonPythonModel"))
