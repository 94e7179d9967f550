"""Which format of tool calls belongs to a chat template, told by the markers that its source has.

PURE. A template that tells the model of no tools, or that nothing here recognizes, gets the generic format.
"""

import re
from functools import lru_cache

from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.generic import GENERIC

_TOLD_OF_TOOLS = re.compile(r"\btools\b")


@lru_cache(maxsize=64)
def format_of(template: str) -> ToolFormat:
    if not _TOLD_OF_TOOLS.search(template):
        return GENERIC
    from openai_server.parsing.tools.recognized import RECOGNIZED  # a dozen modules, which the start does without

    for found, texts in RECOGNIZED:
        if all(text in template for text in texts):
            return found
    return GENERIC
