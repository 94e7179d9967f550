import re
from pathlib import Path

import pytest

from openai_server.parsing.answer_format import needs_special_tokens
from openai_server.parsing.reasoning import tags_of
from openai_server.parsing.tools.formats import format_of
from openai_server.parsing.tools.generic import GENERIC
from openai_server.parsing.tools.recognized import FORMATS_BY_TEXT
from tests.openai_server.parsing.tools.cases import FORMATS, TOOLS
from tests.templates import template_paths

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]

# (format, begin tag of the reasoning) by template. Models of "generic" templates with tools write calls in a
# format that is not implemented, so they get instructions for the generic one.
TEMPLATES = {
    "Apertus-8B-Instruct": ("generic", "<|inner_prefix|>"),
    "Apriel-1.6-15b-Thinker-fixed": ("apriel", "Here are my reasoning steps:"),
    "Bielik-11B-v3.0-Instruct": ("hermes", "<think>"),
    "ByteDance-Seed-OSS": ("seed", "<seed:think>"),
    "Cohere2MoE": ("cohere2", "<|START_THINKING|>"),
    "CohereForAI-c4ai-command-r-plus-tool_use": ("command-r", None),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("command-r7b", "<|START_THINKING|>"),
    "GLM-4.6": ("glm", "<think>"),
    "GLM-4.7-Flash": ("glm", "<think>"),
    "GigaChat3-10B-A1.8B": ("generic", None),
    "GigaChat3.1-10B-A1.8B": ("gigachat", None),
    "HuggingFaceTB-SmolLM3-3B": ("generic", "<think>"),
    "Kimi-K2-Instruct": ("kimi", None),
    "Kimi-K2-Thinking": ("kimi", "<think>"),
    "Kimi-K3": ("generic", None),
    "LFM2-8B-A1B": ("lfm2", None),
    "LFM2.5-8B-A1B": ("lfm2", "<think>"),
    "LFM2.5-Instruct": ("generic", "<think>"),
    "MiMo-VL": ("hermes", None),
    "MiniMax-M1": ("apriel", None),
    "MiniMax-M2": ("minimax-m2", "<think>"),
    "MiniMax-M3": ("generic", "<mm:think>"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral-ids", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen3-coder", "<think>"),
    "NVIDIA-Nemotron-Nano-v2": ("nemotron", "<think>"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-QwQ-32B": ("hermes", "<think>"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "<think>"),
    "Qwen3-Coder": ("qwen3-coder", None),
    "Qwen3.5-4B": ("qwen3-coder", "<think>"),
    "Reka-Edge": ("hermes", "<think>"),
    "Spark2.5": ("glm", "<think>"),
    "StepFun3.5-Flash": ("qwen3-coder", "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("generic", "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("generic", "<think>"),
    "deepseek-ai-DeepSeek-V3.1": ("generic", "<think>"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek-v3.2", "<think>"),
    "deepseek-ai-DeepSeek-V4": ("deepseek-v4", "<think>"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("deepseek-v4", "<think>"),
    "fireworks-ai-llama-3-firefunction-v2": ("generic", None),
    "google-gemma-2-2b-it": ("generic", None),
    "google-gemma-4-31B-it": ("generic", None),
    "google-gemma-4-31B-it-interleaved": ("generic", None),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "<think>"),
    "ibm-granite-granite-4.0": ("hermes", None),
    "ibm-granite-granite-4.1": ("hermes", None),
    "inclusionai-ling-3.0-flash": ("glm", "<think>"),
    "llama-cpp-deepseek-r1": ("deepseek-v3", "<think>"),
    "llama-cpp-rwkv-world": ("generic", "<think>"),
    "meetkai-functionary-medium-v3.1": ("functionary-v3.1", None),
    "meetkai-functionary-medium-v3.2": ("functionary-v3.2", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama-json", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama-json", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama-json", None),
    "microsoft-Phi-3.5-mini-instruct": ("generic", None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "[THINK]"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral-list", None),
    "moonshotai-Kimi-K2": ("kimi", None),
    "muse-glimmer": ("generic", None),
    "openai-gpt-oss-120b": ("harmony", None),
    "openbmb-MiniCPM5-1B": ("generic", "<think>"),
    "poolside-Laguna-S-2.1": ("glm", "<think>"),
    "poolside-Laguna-XS-2.1": ("glm", "<think>"),
    "poolside-Laguna-XS.2": ("glm", "<think>"),
    "tencent-Hy3": ("generic", None),
    "unsloth-Apriel-1.5": ("apriel", "Here are my reasoning steps:"),
    "unsloth-mistral-Devstral-Small-2507": ("mistral", None),
    "upstage-Solar-Open-100B": ("generic", None),
}
# Formats without a template in the corpus, with a characteristic excerpt.
EXCERPTS = {
    "phi4": "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}",
    "deepseek-v3.1": "{% if tools %}{% endif %}{{ '<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments }}",
    "llama-pythonic": "{% if tools %}in the format of [func_name1(params_name1=params_value1, ...)]{% endif %}",
}


def test_each_template_of_the_corpus_is_listed() -> None:
    assert set(template_paths()) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_and_reasoning_of_a_template_are_recognized(name: str) -> None:
    source = template_paths()[name].read_text()
    tags = tags_of(source)
    assert (format_of(source).name, tags and tags.begin) == TEMPLATES[name]


@pytest.mark.parametrize("name", EXCERPTS)
def test_the_format_of_an_excerpt_is_recognized(name: str) -> None:
    assert format_of(EXCERPTS[name]).name == name


def test_each_format_has_cases() -> None:
    assert {GENERIC.name} | {tool_format.name for tool_format, _ in FORMATS_BY_TEXT} == set(FORMATS)


def test_each_format_has_a_template_or_an_excerpt() -> None:
    assert {name for name, _ in TEMPLATES.values()} | set(EXCERPTS) == set(FORMATS)


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_the_documents_have_the_number_of_formats(page: str) -> None:
    n_formats = len({tool_format.name for tool_format, _ in FORMATS_BY_TEXT})
    assert re.search(rf"\b{n_formats}\s+formats\b", (ROOT / page).read_text())


@pytest.mark.parametrize(
    ("template", "tools", "needed"),
    [
        ("Qwen-Qwen3-0.6B", True, False),
        ("mistralai-Mistral-Nemo-Instruct-2407", True, True),
        ("mistralai-Mistral-Nemo-Instruct-2407", False, False),
        ("mistralai-Ministral-3-14B-Reasoning-2512", False, True),
        ("openai-gpt-oss-120b", False, True),
        ("google-gemma-2-2b-it", True, False),
    ],
)
def test_control_tokens_are_requested_if_the_format_or_reasoning_needs_them(
    template: str, tools: bool, needed: bool
) -> None:
    source = template_paths()[template].read_text()
    assert needs_special_tokens(source, TOOLS if tools else None) is needed
