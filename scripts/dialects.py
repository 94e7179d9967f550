"""The table of docs/backends.md: what each dialect does with each field of a request."""

from collections.abc import Iterator

from openai_server.backends.dialects.anyserve.dialect import AnyServe
from openai_server.backends.dialects.base import Dialect, Explanation
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.dialect import Mapped
from openai_server.backends.dialects.mapping.explain import ABSENT
from openai_server.backends.dialects.mapping.load import builtin_files
from protos import contract

NAMES = ("triton_vllm", "trtllm", "llmapi", "dynamo", "mlserver", "anyserve_poc", "text_input")
FIELDS: dict[str, str] = {
    "prompt": "prompt as text",
    "prompt_token_ids": "prompt as token ids",
    "max_tokens": "max_tokens",
    "min_tokens": "min_tokens",
    "n": "n",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
    "ignore_eos": "ignore_eos",
    "skip_special_tokens": "skip_special_tokens",
    "seed": "seed",
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "echo": "echo",
    "suffix": "suffix",
    "json_schema": "response_format with a schema",
    "regex": "regex",
    "grammar": "grammar",
}
"""Input of the contract → the client's field. All further fields are refused except by `anyserve`."""


def header() -> str:
    return " | ".join(["", "anyserve", *NAMES])


def rows() -> Iterator[tuple[str, ...]]:
    dialects: list[Dialect] = [AnyServe(frozenset(spec.name for spec in contract.INPUTS))]
    dialects += [Mapped(builtin_files()[name], Description(model="m")) for name in NAMES]
    explanations = [dialect.explain() for dialect in dialects]
    for name, field in FIELDS.items():
        yield (f"`{field}`", *(_input(explanation, name) for explanation in explanations))
    for title, name in (
        ("finish reason", "finish_reason"),
        ("token counts", "counts"),
        ("log probabilities", "logprobs"),
    ):
        yield (title, *(_output(getattr(explanation, name)) for explanation in explanations))


def _input(explanation: Explanation, name: str) -> str:
    place = explanation.inputs.get(name)
    if place is None:
        return "refused"
    if name == "echo" and not place.startswith("tensor"):
        return "by this server"
    words = place.split()
    return f"`{words[1] if words[0] == 'tensor' else words[2]}`"


def _output(text: str) -> str:
    if text == ABSENT or text.startswith("absent"):
        return "absent"
    return "derived from the counts" if text.startswith("derived") else "reported"
