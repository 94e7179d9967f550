"""Step batches: messages of the contract with the new output of many requests. PURE."""

from collections.abc import Iterable, Iterator, Sequence

from anyserve_worker.core.delta import Delta, join_deltas
from anyserve_worker.core.errors import InvalidRequest
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

Row = tuple[int, Delta]
"""(number of a request, delta of one of its choices)."""


_UNSUPPORTED = {spec.name for spec in contract.NOT_IN_STEP_BATCHES}


def number(message: ModelInferRequest, name: str) -> int | None:
    """Returns a request's number, from the parameter PARAM_REQUEST or PARAM_CANCEL; None if it is absent.

    Raises InvalidRequest.
    """
    if name not in message.parameters:
        return None
    parameter = message.parameters[name]
    value = parameter.int64_param if parameter.WhichOneof("parameter_choice") == "int64_param" else -1
    if not 0 <= value <= contract.INT32_MAX:
        raise InvalidRequest(f"parameter '{name}': must be a whole number from 0 to {contract.INT32_MAX}")
    return value


def check_form(message: ModelInferRequest) -> None:
    """Raises InvalidRequest if a request with a number calls for output that step batches don't have."""
    for tensor in message.inputs:
        if tensor.name in _UNSUPPORTED:
            raise InvalidRequest(f"tensor '{tensor.name}': not supported in step batches", tensor=tensor.name)
    if message.outputs:
        raise InvalidRequest("a request answered in step batches cannot name its outputs")
    if message.parameters[contract.PARAM_EMPTY_FINAL].bool_param:
        raise InvalidRequest("a request answered in step batches has no empty final response")


def n_bytes(delta: Delta) -> int:
    """Bytes of the text in UTF-8."""
    text = delta.text
    return len(text) if text.isascii() else len(text.encode())


def split(rows: Sequence[Row], max_bytes: int) -> Iterator[Sequence[Row]]:
    """Yields all rows in order, in parts of at most `max_bytes` of text, or of one row that has more."""
    start = size = 0
    for i, (_, delta) in enumerate(rows):
        size += n_bytes(delta)
        if size > max_bytes and i > start:
            yield rows[start:i]
            start, size = i, n_bytes(delta)
    yield rows[start:]


def step_batch(rows: Iterable[Row]) -> ModelInferResponse:
    """Builds a step batch from at least one row. Rows of the same choice are joined, at the position of the first."""
    by_choice: dict[tuple[int, int], list[Delta]] = {}
    for request, delta in rows:
        by_choice.setdefault((request, delta.index), []).append(delta)
    deltas = [join_deltas(parts) for parts in by_choice.values()]

    response = ModelInferResponse()
    columns: list[tuple[contract.TensorSpec, tensors.Elements]] = [
        (contract.REQUEST, [request for request, _ in by_choice]),
        (contract.ROW_TOKEN, [delta.text.encode() for delta in deltas]),
        (contract.ROW_INDEX, [delta.index for delta in deltas]),
    ]
    has_end = any(delta.finish_reason for delta in deltas)
    if has_end:
        reasons = [(delta.finish_reason or contract.NOT_FINISHED).encode() for delta in deltas]
        columns.append((contract.ROW_FINISH_REASON, reasons))
    if has_end or any(delta.begins for delta in deltas):
        columns += [
            (contract.ROW_PROMPT_TOKENS, [delta.prompt_tokens for delta in deltas]),
            (contract.ROW_CACHED_TOKENS, [delta.cached_tokens for delta in deltas]),
        ]
    if has_end:
        columns.append((contract.ROW_COMPLETION_TOKENS, [delta.completion_tokens for delta in deltas]))
        marked_tokens = [-1 if delta.marked_tokens is None else delta.marked_tokens for delta in deltas]
        if max(marked_tokens) >= 0:
            columns.append((contract.ROW_MARKED_TOKENS, marked_tokens))
    for spec, elements in columns:
        tensors.add_output(response, spec, elements, raw=False)
    return response
