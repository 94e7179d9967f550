"""Whether a mapping file fits a model. PURE."""

import fnmatch

from openai_server.backends.dialects.base import Recognized, UnusableModel
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.dialect import Mapped
from openai_server.backends.dialects.mapping.schema import MappingFile, Names, Recognize


def recognize(file: MappingFile, description: Description) -> Recognized | None:
    """The dialect if the file is for such a model. Raises UnusableModel if the file names the model, but doesn't fit
    it."""
    if any(fnmatch.fnmatchcase(description.model, pattern) for pattern in file.models):
        return Recognized(Mapped(file, description), "a mapping file has its name")
    if file.recognize is None or (reasons := _reasons(file.recognize, description)) is None:
        return None
    try:
        dialect = Mapped(file, description)
    except UnusableModel:
        return None
    if file.recognize.has_required and description.required - dialect.constant_inputs:
        return None
    return Recognized(dialect, " and ".join(reasons))


def _reasons(rule: Recognize, description: Description) -> list[str] | None:
    """Why the model fits; None if it doesn't."""
    reasons = []
    if rule.server:
        if description.server.name not in rule.server:
            return None
        reasons.append(f"the server is {description.server.name}")
    if rule.backend:
        found = next((name for name in (description.backend, description.platform) if name in rule.backend), None)
        if found is None:
            return None
        reasons.append(f"its backend is {found}")
    for word, wanted, names in (
        ("input", rule.inputs, description.input_names),
        ("output", rule.outputs, description.output_names),
    ):
        found_names = [_one_of(synonyms, names) for synonyms in wanted]
        if None in found_names:
            return None
        if wanted:
            reasons.append(f"it has the {word}s {', '.join(name for name in found_names if name)}")
    if rule.any_of:
        alternatives = (_reasons(alternative, description) for alternative in rule.any_of)
        if (more := next((found for found in alternatives if found is not None), None)) is None:
            return None
        reasons += more
    return reasons


def _one_of(names: Names, having: frozenset[str]) -> str | None:
    return next((name for name in ([names] if isinstance(names, str) else names) if name in having), None)
