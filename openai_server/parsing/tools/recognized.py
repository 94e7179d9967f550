"""The formats of tool calls, with the texts that identify them in a chat template. PURE."""

from openai_server.parsing.tools.bare import LLAMA_JSON, LLAMA_PYTHONIC
from openai_server.parsing.tools.command_r import COHERE2, COMMAND_R, COMMAND_R7B
from openai_server.parsing.tools.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.functionary import FUNCTIONARY_V31, FUNCTIONARY_V32
from openai_server.parsing.tools.glm import GLM
from openai_server.parsing.tools.harmony import HARMONY
from openai_server.parsing.tools.kimi import KIMI
from openai_server.parsing.tools.mistral import MISTRAL, MISTRAL_LIST, MISTRAL_WITH_IDS
from openai_server.parsing.tools.python_calls import LFM2
from openai_server.parsing.tools.tagged import APRIEL, GIGACHAT, GRANITE, HERMES, NEMOTRON, PHI4
from openai_server.parsing.tools.xml_calls import DEEPSEEK_V4, DEEPSEEK_V32, MINIMAX, QWEN3_CODER, SEED

# The first format whose texts are all in the source counts, so the more specific ones come first.
FORMATS_BY_TEXT: tuple[tuple[ToolFormat, tuple[str, ...]], ...] = (
    (HARMONY, ("<|channel|>", "<|message|>", "functions.")),
    (FUNCTIONARY_V32, (">>>all",)),
    (SEED, ("<seed:tool_call>", "<parameter=")),
    (MINIMAX, ("<minimax:tool_call>", "<invoke name=")),
    (DEEPSEEK_V4, ("｜DSML｜", "tool_calls>")),
    (DEEPSEEK_V32, ("｜DSML｜", "function_calls>")),
    (QWEN3_CODER, ("<tool_call>", "<function=", "<parameter=")),
    (FUNCTIONARY_V31, ("<function=", "</function>")),
    (GLM, ("<tool_call>", "<arg_key>")),
    (KIMI, ("<|tool_call_begin|>", "<|tool_call_argument_begin|>")),
    (DEEPSEEK_V3, ("<｜tool▁call▁begin｜>", "```json")),
    (DEEPSEEK_V31, ("<｜tool▁call▁begin｜>",)),
    (MISTRAL_WITH_IDS, ("[TOOL_CALLS]", "[CALL_ID]")),
    (MISTRAL, ("[TOOL_CALLS]", "[ARGS]")),
    (MISTRAL_LIST, ("[TOOL_CALLS]",)),
    (COHERE2, ("<|START_ACTION|>", "<|START_TEXT|>")),
    (COMMAND_R7B, ("<|START_ACTION|>",)),
    (COMMAND_R, ("Action:", "tool_name")),
    (LFM2, ("<|tool_call_start|>",)),
    (LFM2, ("<|tool_list_start|>",)),
    (GIGACHAT, ("function_call|>",)),
    (GRANITE, ("<|tool_call|>", "<|start_of_role|>")),
    (PHI4, ("<|tool|>", "<|/tool|>")),
    (NEMOTRON, ("<TOOLCALL>",)),
    (APRIEL, ("<tool_calls>", '"arguments"')),
    (HERMES, ("<tool_call>", '"arguments"')),
    (LLAMA_PYTHONIC, ("[func_name1(",)),
    (LLAMA_JSON, ("<|start_header_id|>", '"parameters": ')),
)
