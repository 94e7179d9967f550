"""Selects the format of tool calls for a chat template, by the markers in the template's source.

PURE. A template that doesn't use `tools`, or that no format recognizes, gets the generic format.
"""

import re
from functools import lru_cache

from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.generic import GENERIC

_TOOLS_VARIABLE = re.compile(r"\btools\b")


@lru_cache(maxsize=64)
def format_of(template: str) -> ToolFormat:
    if not _TOOLS_VARIABLE.search(template):
        return GENERIC
    from openai_server.parsing.tools.recognized import FORMATS_BY_TEXT  # a dozen modules that the start-up doesn't need

    for tool_format, texts in FORMATS_BY_TEXT:
        if all(text in template for text in texts):
            return tool_format
    return GENERIC
