"""Settings for files in conversations. PURE."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFileSettings:
    max_tokens: int = 0
    """Maximum tokens of the text of one file; 0: what fits into the context."""
    url_prefixes: tuple[str, ...] = ()
    """Prefixes of the URLs that may be fetched."""
    allows_private: bool = False
    """Whether hosts in private networks may be fetched from."""


NO_PROMPT_FILE_SETTINGS = PromptFileSettings()
