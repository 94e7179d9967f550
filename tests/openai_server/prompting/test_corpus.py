"""The chat templates of many models: prompts and rejections are those of transformers."""

from collections.abc import Mapping, Set
from datetime import datetime
from functools import cache
from typing import Any

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.prompting.messages import Form
from openai_server.prompting.template import RenderOptions, Templates
from tests.openai_server.prompting import reference
from tests.openai_server.prompting.conversations import CASES, QUESTION, TOOLS, Case, as_wanted, tools_as_wanted
from tests.openai_server.prompting.reference import BOS, EOS, Refused
from tests.templates import template_paths

pytestmark = pytest.mark.slow

NAMES = """
    Apertus-8B-Instruct Apriel-1.6-15b-Thinker-fixed Bielik-11B-v3.0-Instruct ByteDance-Seed-OSS Cohere2MoE
    CohereForAI-c4ai-command-r-plus-tool_use CohereForAI-c4ai-command-r7b-12-2024-tool_use GLM-4.6
    GLM-4.7-Flash GigaChat3-10B-A1.8B GigaChat3.1-10B-A1.8B HuggingFaceTB-SmolLM3-3B Kimi-K2-Instruct
    Kimi-K2-Thinking Kimi-K3 LFM2-8B-A1B LFM2.5-8B-A1B LFM2.5-Instruct MiMo-VL MiniMax-M1 MiniMax-M2
    MiniMax-M3 Mistral-Small-3.2-24B-Instruct-2506 NVIDIA-Nemotron-3-Nano-30B-A3B-BF16
    NVIDIA-Nemotron-Nano-v2 NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use
    NousResearch-Hermes-3-Llama-3.1-8B-tool_use Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct Qwen-Qwen3-0.6B
    Qwen3-Coder Qwen3.5-4B Reka-Edge Spark2.5 StepFun3.5-Flash deepseek-ai-DeepSeek-R1-Distill-Llama-8B
    deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1 deepseek-ai-DeepSeek-V3.2
    deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731 fireworks-ai-llama-3-firefunction-v2
    google-gemma-2-2b-it google-gemma-4-31B-it google-gemma-4-31B-it-interleaved
    ibm-granite-granite-3.3-2B-Instruct ibm-granite-granite-4.0 ibm-granite-granite-4.1
    inclusionai-ling-3.0-flash llama-cpp-deepseek-r1 llama-cpp-rwkv-world meetkai-functionary-medium-v3.1
    meetkai-functionary-medium-v3.2 meta-llama-Llama-3.1-8B-Instruct meta-llama-Llama-3.2-3B-Instruct
    meta-llama-Llama-3.3-70B-Instruct microsoft-Phi-3.5-mini-instruct
    mistralai-Ministral-3-14B-Reasoning-2512 mistralai-Mistral-Nemo-Instruct-2407 moonshotai-Kimi-K2
    muse-glimmer openai-gpt-oss-120b openbmb-MiniCPM5-1B poolside-Laguna-S-2.1 poolside-Laguna-XS-2.1
    poolside-Laguna-XS.2 tencent-Hy3 unsloth-Apriel-1.5 unsloth-mistral-Devstral-Small-2507
    upstage-Solar-Open-100B
""".split()  # noqa: SIM905  # a list would be one line a name
"""Names of all templates of the corpus."""

FORMS: Mapping[str, Form] = {
    "Apertus-8B-Instruct": Form(whole_tools=True),
    "ByteDance-Seed-OSS": Form(whole_tools=True),
    "Cohere2MoE": Form(whole_tools=True),
    "CohereForAI-c4ai-command-r-plus-tool_use": Form(whole_tools=True),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Form(whole_tools=True),
    "MiniMax-M3": Form(developer=True),
    "Mistral-Small-3.2-24B-Instruct-2506": Form(short_ids=True),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Form(whole_tools=True),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Form(whole_tools=True),
    "Reka-Edge": Form(developer=True),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Form(null_content=True, text_arguments=True),
    "deepseek-ai-DeepSeek-V4": Form(developer=True),
    "deepseek-ai-DeepSeek-V4-Flash-0731": Form(developer=True),
    "google-gemma-4-31B-it": Form(developer=True),
    "google-gemma-4-31B-it-interleaved": Form(developer=True),
    "meetkai-functionary-medium-v3.1": Form(whole_tools=True),
    "meetkai-functionary-medium-v3.2": Form(text_arguments=True),
    "mistralai-Mistral-Nemo-Instruct-2407": Form(short_ids=True),
    "muse-glimmer": Form(whole_tools=True),
    "openai-gpt-oss-120b": Form(developer=True, content_or_reasoning=True, whole_tools=True),
}
"""Forms of the templates that differ from the default."""

WITH_TOOLS = {name for name, case in CASES.items() if case.tools}
WITHOUT_TOOLS = CASES.keys() - WITH_TOOLS
WITH_CALLS = {name for name in CASES if "call" in name}
WITH_SYSTEM = {name for name, case in CASES.items() if case.sent[0]["role"] in ("system", "developer")}
REJECTED: Mapping[str, Set[str]] = {
    # they loop over `tools`, so they need tools
    "CohereForAI-c4ai-command-r-plus-tool_use": WITHOUT_TOOLS,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": WITHOUT_TOOLS,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": WITHOUT_TOOLS,
    # they append to a list, which the sandbox forbids
    "Kimi-K2-Instruct": WITH_CALLS,
    "Kimi-K2-Thinking": WITH_CALLS,
    # it needs `functions` in `chat_template_kwargs`
    "fireworks-ai-llama-3-firefunction-v2": CASES.keys(),
    # it allows only two alternating roles
    "google-gemma-2-2b-it": WITH_CALLS | WITH_SYSTEM,
    # it encodes a generator as JSON, which only llama.cpp's Jinja supports
    "llama-cpp-deepseek-r1": WITH_TOOLS,
    # it allows one call at a time
    "meta-llama-Llama-3.1-8B-Instruct": {"two calls"},
    "meta-llama-Llama-3.2-3B-Instruct": {"two calls"},
    "meta-llama-Llama-3.3-70B-Instruct": {"two calls"},
}

NOW = datetime(2026, 3, 4, 5, 6)
TEMPLATES = Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=1 << 20)
"""Limits far above the needs of the corpus."""


@cache
def source_of(name: str) -> str:
    return template_paths()[name].read_text()


def rendered(name: str, case: Case, **variables: Any) -> str:
    options = RenderOptions(
        tools=case.tools,
        add_generation_prompt=case.add_generation_prompt,
        continue_final_message=case.continue_final_message,
        chat_template_kwargs=variables,
    )
    return TEMPLATES.render(source_of(name), case.messages, {"bos_token": BOS, "eos_token": EOS}, options)


def reference_prompt(name: str, case: Case, **variables: Any) -> str:
    """Returns the prompt of transformers. Raises Refused."""
    form = FORMS.get(name, Form())
    return reference.render(
        source_of(name),
        as_wanted(case.conversation, form),
        NOW,
        tools=tools_as_wanted(case.tools, form),
        add_generation_prompt=case.add_generation_prompt,
        continue_final_message=case.continue_final_message,
        **variables,
    )


def test_the_corpus_is_complete() -> None:
    assert sorted(template_paths()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of_a_template_is_found(name: str) -> None:
    assert TEMPLATES.capabilities(source_of(name)).form == FORMS.get(name, Form())


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_rejections_are_those_of_transformers(name: str) -> None:
    for title, case in CASES.items():
        if title in REJECTED.get(name, ()):
            with pytest.raises(Refused) as refused:
                reference_prompt(name, case)
            with pytest.raises(InvalidRequest) as caught:
                rendered(name, case)
            assert str(refused.value) in caught.value.message, title
        else:
            assert (title, rendered(name, case)) == (title, reference_prompt(name, case))


# ---- Template variables

VALUES: Mapping[str, tuple[object, ...]] = {
    "enable_thinking": (True, False),
    "thinking": (True, False),
    "reasoning_effort": ("low", "high", "none"),
    "thinking_budget": (0, 512),
    "thinking_effort": ("low", "max", "much"),
    "thinking_mode": ("enabled", "disabled"),
    "thinking_option": ("on", "off"),
    "reasoning_strength": ("low",),
    "preserve_thinking": (True,),
    "clear_thinking": (False,),
    "drop_thinking": (False,),
    "skip_thinking": (True,),
    "keep_past_thinking": (True,),
    "truncate_history_thinking": (False,),
    "custom_instructions": ("Rhyme.",),
    "date_string": ("1 May 2026",),
    "documents": ([{"title": "t", "text": "A <b> é.", "id": 1}],),
    "functions": ('[{"name": "f"}]',),
    "datetime": ("noon",),
    "builtin_tools": (["python", "browser"],),
    "controls": ({"length": "long"},),
    "model_identity": ("Z",),
    "response_format": ({"type": "json_object"},),
}
TURN_WITH_REASONING = CASES["reasoning and call"]


@pytest.mark.parametrize("name", NAMES)
def test_variables_have_the_same_effect_as_in_transformers(name: str) -> None:
    names = reference.variables(source_of(name))
    assert (name, names) == (name, TEMPLATES.capabilities(source_of(name)).variables)
    for case in (Case([QUESTION], [QUESTION]), Case([QUESTION], [QUESTION], TOOLS), TURN_WITH_REASONING):
        for variable in sorted(VALUES.keys() & names):
            for value in VALUES[variable]:
                expected = outcome(reference_prompt, name, case, variable, value)
                assert outcome(rendered, name, case, variable, value) == expected


def outcome(render: Any, name: str, case: Case, variable: str, value: object) -> str | None:
    try:
        prompt: str = render(name, case, **{variable: value})
    except (InvalidRequest, Refused):
        return None
    return prompt


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("Qwen-Qwen3-0.6B", "enable_thinking"),
        ("GLM-4.6", "enable_thinking"),
        ("HuggingFaceTB-SmolLM3-3B", "enable_thinking"),
        ("google-gemma-4-31B-it", "enable_thinking"),
        ("deepseek-ai-DeepSeek-V3.1", "thinking"),
        ("ibm-granite-granite-3.3-2B-Instruct", "thinking"),
        ("openai-gpt-oss-120b", "reasoning_effort"),
        ("tencent-Hy3", "reasoning_effort"),
        ("ByteDance-Seed-OSS", "thinking_budget"),
        ("ibm-granite-granite-4.0", "documents"),
    ],
)
def test_a_variable_changes_the_prompt(name: str, variable: str) -> None:
    prompts = {outcome(rendered, name, CASES["user"], variable, value) for value in VALUES[variable]} - {None}
    assert len(prompts | {rendered(name, CASES["user"])}) > 1


def test_a_template_may_require_variables() -> None:
    name, variables = "fireworks-ai-llama-3-firefunction-v2", {"functions": "[f]", "datetime": "noon"}
    assert rendered(name, CASES["turns"], **variables) == reference_prompt(name, CASES["turns"], **variables)


def test_the_date_comes_from_the_clock() -> None:
    assert "Today Date: 04 Mar 2026" in rendered("meta-llama-Llama-3.2-3B-Instruct", CASES["user"])
    assert "Current date: 2026-03-04" in rendered("openai-gpt-oss-120b", CASES["user"])
