"""The metadata of a model, as one backend reports it. PURE."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from openai_server.backends.dialects.anyserve.dialect import ANYSERVE
from openai_server.backends.dialects.base import Dialect
from openai_server.backends.dialects.description import Description, TensorDescription
from openai_server.core.context_length import is_number
from protos.contract import TASK_GENERATE

MAX_SHOWN = 40
"""Number of tensors in a line of the log."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A backend's metadata for a model."""

    input_names: Container[str]
    """Names of its input tensors."""
    parameters: Mapping[str, str]
    """Values of contract.CONFIG_PARAMETERS, completed by ModelSettings and with DEFAULT_TEMPLATE; absent is unknown."""
    dialect: Dialect | None = field(default=ANYSERVE, kw_only=True, compare=False)
    """None: no dialect fits the model."""
    description: Description | None = field(default=None, kw_only=True)
    """The description that the dialect was chosen by."""
    reason: str = field(default="", kw_only=True, compare=False)
    """Why the dialect fits, as the end of a sentence."""

    @property
    def tasks(self) -> list[str]:
        """Tasks that the model supports; only generation if the backend doesn't report them."""
        return self.parameters.get("tasks", TASK_GENERATE).split(",")

    @property
    def context_length(self) -> int | None:
        """Tokens; None is unknown."""
        length = self.parameters.get("context_length", "")
        return int(length) if is_number(length) else None

    def differences(self, other: "Metadata") -> list[str]:
        """Names of the values that differ, without the time at which the model was loaded."""
        names = {*self.parameters, *other.parameters} - {"loaded_at"}
        found = sorted(name for name in names if self.parameters.get(name) != other.parameters.get(name))
        are_alike = self.input_names == other.input_names and self._form == other._form
        return found if are_alike else ["inputs", *found]

    @property
    def _form(self) -> Description | None:
        """The part that is equal for backends that take requests of the same form."""
        is_own = self.description is None or self.description.server.is_own
        return None if is_own else self.description

    @property
    def is_text_model(self) -> bool:
        """Whether this server can talk to the model."""
        return self.dialect is not None


def split_version(name: str) -> tuple[str, str]:
    """The name and the version of `name@version`; the version is empty without one."""
    base, _, version = name.rpartition("@")
    return (base, version) if base and version else (name, "")


def listed(tensors: Sequence[TensorDescription]) -> str:
    shown = [f"{tensor.name} {tensor.datatype}{list(tensor.shape)}" for tensor in tensors[:MAX_SHOWN]]
    return ", ".join(shown) + (", …" if len(tensors) > MAX_SHOWN else "") or "none"
