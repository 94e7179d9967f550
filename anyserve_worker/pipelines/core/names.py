"""Names of models. PURE."""

from protos import contract

MAX_NAME = 256
"""Characters of a name."""


def name_problem(name: str) -> str:
    """Why a model can't have this name; empty: it can."""
    if not name:
        return "the name is empty"
    if not name.isprintable():
        return "the name has unprintable characters"
    if len(name) > MAX_NAME:
        return f"the name has more than {MAX_NAME} characters"
    if name in contract.ANYSERVE_CAPABILITIES:
        return "a model cannot have this name, which is part of AnyServe's protocol"
    return ""
