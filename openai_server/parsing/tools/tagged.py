"""Formats that differ only in the tags around their JSON.

PURE. Models and their formats:

    Hermes, Qwen, Granite 4   <tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>
    Granite 3                 <|tool_call|>[{"name": "f", "arguments": {…}}]
    Phi 4                     <|tool_call|>[{…}]<|/tool_call|>, and sometimes functools[{…}]
    Nemotron Nano 2           <TOOLCALL>[{…}]</TOOLCALL>
    Apriel, MiniMax M1        <tool_calls>[{…}]</tool_calls>
    GigaChat 3.1              <|function_call|>{…}
"""

from openai_server.parsing.tools.json_calls import JsonCalls

HERMES = JsonCalls("hermes", ("<tool_call>",), "</tool_call>", space="\n", between="\n")
GRANITE = JsonCalls("granite", ("<|tool_call|>",), special_tokens=True, listed=True)
PHI4 = JsonCalls("phi4", ("<|tool_call|>", "functools["), "<|/tool_call|>", special_tokens=True, listed=True)
NEMOTRON = JsonCalls("nemotron", ("<TOOLCALL>",), "</TOOLCALL>", special_tokens=True, listed=True)
APRIEL = JsonCalls("apriel", ("<tool_calls>",), "</tool_calls>", special_tokens=True, listed=True)
GIGACHAT = JsonCalls("gigachat", ("<|function_call|>",), special_tokens=True)
