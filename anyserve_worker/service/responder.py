"""Converts generated output to tensors. PURE."""

import math
from collections.abc import Iterable

from anyserve_common.text import shortened
from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.errors import InvalidRequest
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

Outputs = list[tuple[TensorSpec, tensors.Elements]]


class Responder:
    """Builds the responses to one request, with its id, its encoding of tensors and the outputs that it names."""

    def __init__(self, message: ModelInferRequest, model: str, available: tuple[TensorSpec, ...]) -> None:
        """`model`: the served model's name. `available`: all outputs of this call. Raises InvalidRequest."""
        self._message = message
        self._model = model
        self._raw = tensors.is_raw(message)
        if len(message.outputs) > tensors.MAX_TENSORS:
            raise InvalidRequest(f"{len(message.outputs)} outputs, at most {tensors.MAX_TENSORS}")
        requested = {output.name for output in message.outputs}
        unknown = requested - {spec.name for spec in available}
        if unknown:
            raise InvalidRequest(f"output '{shortened(min(unknown))}': not produced by this call")
        self._output_names = requested or {spec.name for spec in available}

    def unary(self, deltas: Iterable[Delta]) -> ModelInferResponse:
        """Returns the whole response to a request, from all of its deltas."""
        choices = merge(deltas)
        return self.build(
            [
                (contract.TEXT, [choice.text.encode() for choice in choices]),
                (contract.FINISH_REASON, [(choice.finish_reason or "").encode() for choice in choices]),
                (contract.MODEL, [self._model.encode()]),
                *_counts(choices),
                *_logprobs(choices),
            ]
        )

    def stream(self, choices: list[Delta], *, final: bool) -> ModelInferResponse:
        """Returns one response of a stream. `choices`: new output. Token counts are included if a choice ends, those of
        the prompt also if one begins."""
        outputs: Outputs = []
        progress = [progress for choice in choices for progress in choice.progress]
        if progress and not any(choice.has_output for choice in choices):
            outputs = _prompt_counts(choices)
        elif choices:
            outputs = [
                (contract.TOKEN, [choice.text.encode() for choice in choices]),
                (contract.INDEX, [choice.index for choice in choices]),
                (
                    contract.FINISH_REASON,
                    [(choice.finish_reason or contract.NOT_FINISHED).encode() for choice in choices],
                ),
            ]
            if any(choice.finish_reason or choice.times for choice in choices):
                outputs += _counts(choices)
            elif any(choice.begins for choice in choices):
                outputs += _prompt_counts(choices)
            outputs += _logprobs(choices)
        if progress:
            outputs += [
                (contract.PROGRESS_TOKENS, [step.n_tokens for step in progress]),
                (contract.PROGRESS_MS, [step.ms for step in progress]),
            ]
        response = self.build(outputs)
        response.parameters[contract.PARAM_FINAL].bool_param = final
        return response

    def build(self, outputs: Iterable[tuple[TensorSpec, tensors.Elements]]) -> ModelInferResponse:
        response = ModelInferResponse(
            model_name=self._message.model_name, model_version=self._message.model_version or "1", id=self._message.id
        )
        for spec, elements in outputs:
            if spec.name in self._output_names:
                tensors.add_output(response, spec, elements, raw=self._raw)
        return response


def _prompt_counts(choices: list[Delta]) -> Outputs:
    return [
        (contract.PROMPT_TOKENS, [choices[0].prompt_tokens]),
        (contract.CACHED_TOKENS, [choices[0].cached_tokens]),
    ]


def _counts(choices: list[Delta]) -> Outputs:
    return [
        *_prompt_counts(choices),
        (contract.COMPLETION_TOKENS, [choice.completion_tokens for choice in choices]),
        *(
            [(contract.MARKED_TOKENS, [choice.marked_tokens for choice in choices])]
            if choices[0].marked_tokens is not None
            else []
        ),
        *_times(choices),
    ]


def _times(choices: list[Delta]) -> Outputs:
    """Returns the times of the request, which are those of its latest delta; empty if they are not requested."""
    times = [choice.times for choice in choices if choice.times]
    if not times:
        return []
    return [
        (contract.PROMPT_MS, [times[0].prompt_ms]),
        (contract.COMPLETION_MS, [max(time.completion_ms for time in times)]),
    ]


def _logprobs(choices: list[Delta]) -> Outputs:
    """Returns an empty list if there are no log probabilities."""
    logprobs = [(choice.index, logprob) for choice in choices for logprob in choice.logprobs]
    if not logprobs:
        return []
    n_top = max(len(logprob.top) for _, logprob in logprobs)
    tops = [(*logprob.top, *[NO_TOP] * (n_top - len(logprob.top))) for _, logprob in logprobs]
    return [
        (contract.LOGPROB_INDEX, [index for index, _ in logprobs]),
        (contract.LOGPROB_TOKEN, [logprob.token for _, logprob in logprobs]),
        (contract.LOGPROB, [logprob.logprob for _, logprob in logprobs]),
        (contract.TOP_LOGPROB_TOKEN, [token for top in tops for token, _ in top]),
        (contract.TOP_LOGPROB, [logprob for top in tops for _, logprob in top]),
    ]


NO_TOP = (b"", math.nan)
"""Fills the `top` of a prompt's first token, which nothing precedes."""
