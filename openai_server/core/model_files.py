"""Files with which an operator describes models whose backends don't describe them. PURE: these are their contents."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EVERY_MODEL = ""
"""The name under which a file for all models is kept."""

LOCAL_TOKENIZER = "local_tokenizer"
"""Parameter of a model, set by this server: the name of its tokenizer in `--tokenizer`. Absent: its backend tokenizes,
or nothing does."""


@dataclass(frozen=True, slots=True)
class TemplateFile:
    path: str
    source: str
    """Jinja source of the chat template."""


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """A folder in Hugging Face's form."""

    path: str
    parameters: Mapping[str, str]
    """Values of contract.CONFIG_PARAMETERS; absent is unknown."""
    template_files: Mapping[str, str]
    """The file that each chat template in `parameters` is from, by parameter."""
    vocabulary: Path | None
    """Its `tokenizer.json`; None if it has none."""
