"""A backend's description of itself and of a model, by which a dialect is chosen. PURE."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelConfig, ModelMetadataResponse, RepositoryIndexResponse

TRITON = "triton"
UNARY_SERVERS = frozenset({"kserve", "mlserver"})
"""Servers without the usual ModelStreamInfer."""


class TensorDescription(Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    """With the batch dimension, if the model has one. -1: any size."""


class ServerDescription(Struct, frozen=True):
    """Empty values: the backend doesn't implement ServerMetadata."""

    name: str = ""
    """Lower case: `triton`, `mlserver`, `kserve`, `anyserve`."""
    extensions: frozenset[str] = frozenset()

    @property
    def is_own(self) -> bool:
        """Whether the server is the bundled worker, or another one with its extensions."""
        return not self.extensions.isdisjoint(contract.EXTENSIONS)


class IndexEntry(Struct, frozen=True):
    """A version of a model in a RepositoryIndex."""

    name: str
    version: str = ""
    is_ready: bool = True


def index_entries(index: RepositoryIndexResponse) -> list[IndexEntry]:
    # A server without states lists only models that are ready. MLServer writes an enum's name before its value.
    return [
        IndexEntry(model.name, model.version, model.state.rpartition(".")[2] in ("READY", ""))
        for model in index.models
        if model.name
    ]


class Description(Struct, frozen=True, kw_only=True):
    """A model, from ModelMetadata and ModelConfig. Empty values: not reported."""

    model: str
    version: str = ""
    """Empty: the version that the backend chooses."""
    server: ServerDescription = ServerDescription()
    platform: str = ""
    backend: str = ""
    is_decoupled: bool | None = None
    """Whether the model sends any number of responses to a request. None: not reported."""
    required: frozenset[str] = frozenset()
    """Inputs that a request must have, as far as reported."""
    inputs: tuple[TensorDescription, ...] = ()
    outputs: tuple[TensorDescription, ...] = ()
    tasks: frozenset[str] = frozenset()
    settings: Mapping[str, str] = {}
    """Parameters of ModelConfig that are not in contract.CONFIG_PARAMETERS."""
    has_metadata: bool = True
    """Whether the backend implements ModelMetadata."""

    @property
    def needs_streams(self) -> bool:
        """Whether ModelInfer refuses the model, as far as that is known."""
        return self.is_decoupled or (self.is_decoupled is None and self.server.name == TRITON)

    @property
    def input_names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.inputs)

    @property
    def output_names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.outputs)


def describe(
    model: str,
    version: str,
    server: ServerDescription,
    metadata: ModelMetadataResponse | None,
    config: ModelConfig | None,
) -> Description:
    """None: the backend doesn't implement the call."""
    inputs = _tensors(metadata.inputs) if metadata else ()
    required = frozenset(field.name for field in config.input if not field.optional) if config else frozenset()
    return Description(
        model=model,
        version=version,
        server=server,
        platform=(metadata.platform if metadata else "") or (config.platform if config else ""),
        backend=config.backend if config else "",
        is_decoupled=config.model_transaction_policy.decoupled if config else None,
        required=required,
        inputs=inputs,
        outputs=_tensors(metadata.outputs) if metadata else (),
        tasks=frozenset(filter(None, config_parameters(config).get("tasks", "").split(","))),
        settings=_settings(config) if config else {},
        has_metadata=metadata is not None,
    )


def _tensors(reported: Iterable[ModelMetadataResponse.TensorMetadata]) -> tuple[TensorDescription, ...]:
    return tuple(TensorDescription(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in reported)


def _settings(config: ModelConfig) -> dict[str, str]:
    known = contract.CONFIG_PARAMETERS
    return {name: value.string_value for name, value in config.parameters.items() if name not in known}


def config_parameters(config: ModelConfig | None) -> Mapping[str, str]:
    """Values of contract.CONFIG_PARAMETERS, as far as the backend reports them."""
    if config is None:
        return {}
    reported = config.parameters
    return {name: reported[name].string_value for name in contract.CONFIG_PARAMETERS if name in reported}
