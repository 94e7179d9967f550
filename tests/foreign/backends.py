"""The foreign backends, and what each of them is able to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Backend:
    name: str
    description: str
    model: str
    """The model to use, by its name in /v1/models."""
    dialect: str = ""
    """The dialect that the sidecar must recognize; `name` if a mapping file describes it."""
    server: str = "triton"
    """The way to start it: a name in bench.COMMANDS."""
    repository: str = ""
    """A name in triton.REPOSITORIES if it isn't `name`."""
    models: tuple[str, ...] = ()
    """All models that /v1/models must list, and no others; only `model` if empty."""
    options: tuple[str, ...] = ()
    """Options of the sidecar."""
    is_mapped: bool = False
    """Whether mappings/NAME.toml describes it."""
    streams: bool = True
    """Whether it sends its answer in parts."""
    notices_leaving: bool = True
    """Whether the model ends when its client leaves."""
    loses_text: bool = False
    """Whether text that was generated before a failure may be missing."""
    has_reasons: bool = True
    """Whether it reports why an answer ended, or counts from which that follows."""
    has_counts: bool = True
    has_logprobs: bool = False
    keeps_n: bool = False
    """Whether it answers several times at once."""
    keeps_max_tokens: bool = True
    keeps_stop: bool = True
    refused: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a completion that it can't express, with values that would change its answer."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Names of models as requested, to the version that must answer."""

    @property
    def listed(self) -> tuple[str, ...]:
        return self.models or (self.model,)


VLLM_REFUSED = {"logit_bias": {"7": 5}, "suffix": "!", "typical_p": 0.5, "grammar": 'root ::= "a"'}
TRTLLM_REFUSED = {"logit_bias": {"7": 5}, "logprobs": 2, "suffix": "!", "min_p": 0.5}
LLMAPI_REFUSED = {"logit_bias": {"7": 5}, "logprobs": 2, "n": 2, "min_p": 0.5, "repetition_penalty": 1.5}
MAPPED_REFUSED = {"logit_bias": {"7": 5}, "logprobs": 2, "n": 2, "seed": 5, "frequency_penalty": 1}

BACKENDS = (
    Backend(
        "triton-vllm",
        "Triton, the vLLM backend's contract",
        "vllm_model",
        dialect="triton_vllm",
        has_logprobs=True,
        keeps_n=True,
        refused=VLLM_REFUSED,
    ),
    Backend(
        "triton-vllm-versions",
        "the same, versions 1 and 3 are ready",
        "vllm_model",
        dialect="triton_vllm",
        has_logprobs=True,
        keeps_n=True,
        refused=VLLM_REFUSED,
        versions={"vllm_model": "3", "vllm_model@1": "1", "vllm_model@3": "3"},
    ),
    Backend(
        "triton-trtllm",
        "Triton, TensorRT-LLM's ensemble",
        "ensemble",
        dialect="trtllm",
        models=("ensemble", "tensorrt_llm_bls"),
        # An ensemble cancels no step that runs, and drops what is in its last step when another one fails.
        notices_leaving=False,
        loses_text=True,
        keeps_n=True,
        refused=TRTLLM_REFUSED,
    ),
    Backend(
        "triton-trtllm-bls",
        "the same repository, its BLS model with cumulative text",
        "tensorrt_llm_bls",
        dialect="trtllm",
        repository="triton-trtllm",
        models=("ensemble", "tensorrt_llm_bls"),
        refused=TRTLLM_REFUSED,
    ),
    Backend(
        "triton-llmapi",
        "Triton, TensorRT-LLM's llmapi, decoupled",
        "tensorrt_llm",
        dialect="llmapi",
        has_counts=False,
        refused=LLMAPI_REFUSED,
    ),
    Backend(
        "triton-llmapi-unary",
        "the same as shipped, not decoupled",
        "tensorrt_llm",
        dialect="llmapi",
        streams=False,
        has_counts=False,
        refused=LLMAPI_REFUSED,
    ),
    Backend(
        "triton-custom",
        "Triton, own names, parameters in JSON, the end is an empty response",
        "my_llm",
        is_mapped=True,
        has_reasons=False,
        has_counts=False,
        refused=MAPPED_REFUSED,
    ),
    Backend(
        "triton-cumulative",
        "Triton, own names, cumulative text",
        "grower",
        is_mapped=True,
        refused={**MAPPED_REFUSED, "temperature": 0.5},
    ),
    Backend(
        "triton-tutorial",
        "Triton, `prompt` to `text` as in NVIDIA's tutorials",
        "mistral7b",
        dialect="anyserve",
        streams=False,
        notices_leaving=False,
        has_reasons=False,
        has_counts=False,
        keeps_max_tokens=False,
        keeps_stop=False,
        refused={"temperature": 0.5, "seed": 5},
    ),
    Backend(
        "triton-contract",
        "Triton, this project's contract, decoupled",
        "contract",
        dialect="anyserve",
        refused={"logprobs": 2, "min_p": 0.5},
    ),
    Backend(
        "triton-broken",
        "the same, beside a model that failed to load",
        "contract",
        dialect="anyserve",
    ),
    Backend(
        "mlserver-hf",
        "MLServer, mlserver_huggingface's contract",
        "hf",
        dialect="mlserver",
        server="mlserver",
        streams=False,
        notices_leaving=False,
        has_reasons=False,
        has_counts=False,
        keeps_stop=False,
        refused={"logit_bias": {"7": 5}, "logprobs": 2, "frequency_penalty": 1},
    ),
    Backend(
        "mlserver-stream",
        "MLServer, a user's predict_stream",
        "streaming",
        server="mlserver",
        is_mapped=True,
        has_reasons=False,
        has_counts=False,
        refused={**MAPPED_REFUSED, "temperature": 0.5},
    ),
    Backend(
        "kserve",
        "KServe's ModelServer, own names",
        "assistant",
        server="kserve",
        options=("--served-model", "assistant"),
        is_mapped=True,
        streams=False,
        has_reasons=False,
        has_counts=False,
        keeps_stop=False,
        refused={**MAPPED_REFUSED, "temperature": 0.5},
    ),
    Backend(
        "dynamo",
        "Dynamo's KServe front with a scripted engine",
        "dynamo-model",
        dialect="dynamo",
        server="dynamo",
        options=("--served-model", "dynamo-model"),
        has_counts=False,
        keeps_max_tokens=False,
        keeps_stop=False,
        refused={**MAPPED_REFUSED, "temperature": 0.5},
    ),
    Backend(
        "plain",
        "a server with ModelInfer and ModelMetadata only",
        "plain",
        dialect="text_input",
        server="plain",
        options=("--served-model", "plain"),
        streams=False,
        has_reasons=False,
        has_counts=False,
        keeps_stop=False,
        refused={**MAPPED_REFUSED, "temperature": 0.5},
    ),
    Backend(
        "anyserve",
        "AnyServe's proof of concept, emulated",
        "tiny-llama",
        dialect="anyserve_poc",
        server="anyserve_poc",
        notices_leaving=False,
        has_reasons=False,
        has_counts=False,
        keeps_stop=False,
        refused={"logit_bias": {"7": 5}, "logprobs": 2, "n": 2, "seed": 5, "min_p": 0.5},
    ),
)
