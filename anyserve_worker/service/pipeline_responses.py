"""Converts the events of a pipeline to tensors. PURE."""

from collections.abc import Sequence

from anyserve_worker.pipelines.core import events
from anyserve_worker.pipelines.core.events import Finish, Refusal, Text, Usage
from anyserve_worker.service.responder import Outputs, Responder
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

WHOLE_OUTPUTS = tuple(spec for spec in contract.CHAT_OUTPUTS if spec not in (contract.TOKEN, contract.INDEX))
STREAM_OUTPUTS = tuple(spec for spec in contract.CHAT_OUTPUTS if spec is not contract.TEXT)


class PipelineResponder:
    """Builds the responses to one request: of events, unless it names outputs without `events`. Then they have the text
    of the answer; reasoning and tool calls are left out."""

    def __init__(self, message: ModelInferRequest, model: str, *, streams: bool) -> None:
        """`model`: name of the served model. Raises InvalidRequest."""
        self._responder = Responder(message, model, STREAM_OUTPUTS if streams else WHOLE_OUTPUTS)
        self._sends_events = not message.outputs or contract.EVENTS.name in {output.name for output in message.outputs}
        self.empty_final = message.parameters[contract.PARAM_EMPTY_FINAL].bool_param

    def whole(self, data: Sequence[bytes]) -> ModelInferResponse:
        """The response with all events."""
        if self._sends_events:
            return self._responder.build([(contract.EVENTS, data)])
        texts, reasons, usage = _read(data)
        choices = sorted(reasons)
        outputs: Outputs = [
            (contract.TEXT, [texts[choice] for choice in choices]),
            (contract.FINISH_REASON, [reasons[choice].encode() for choice in choices]),
        ]
        return self._responder.build([*outputs, *_counts(usage, len(choices))])

    def stream(self, data: Sequence[bytes], *, final: bool) -> ModelInferResponse | None:
        """A response with these events. None: there is nothing to send."""
        outputs: Outputs = []
        if data and self._sends_events:
            outputs = [(contract.EVENTS, data)]
        elif data:
            outputs = _tokens(data)
        if not outputs and not final:
            return None
        response = self._responder.build(outputs)
        response.parameters[contract.PARAM_FINAL].bool_param = final
        return response


def _tokens(data: Sequence[bytes]) -> Outputs:
    """The outputs of a stream in text form, with an element for each choice."""
    texts, reasons, usage = _read(data)
    if not texts:
        return []
    return [
        (contract.TOKEN, list(texts.values())),
        (contract.INDEX, list(texts)),
        (contract.FINISH_REASON, [reasons.get(choice, contract.NOT_FINISHED).encode() for choice in texts]),
        *(_counts(usage, len(texts)) if reasons else []),
    ]


def _read(data: Sequence[bytes]) -> tuple[dict[int, bytes], dict[int, str], Usage | None]:
    """The text of each choice with text or an end, the finish reasons of those with an end, and the last usage."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    usage: Usage | None = None
    for event in map(events.decode, data):
        if isinstance(event, Text | Refusal):
            texts.setdefault(event.choice, []).append(event.text)
        elif isinstance(event, Finish):
            texts.setdefault(event.choice, [])
            reasons[event.choice] = event.reason
        elif isinstance(event, Usage):
            usage = event
    return {choice: "".join(parts).encode("utf-8", "replace") for choice, parts in texts.items()}, reasons, usage


def _counts(usage: Usage | None, n_choices: int) -> Outputs:
    """The token counts, which are those of all choices together: with several, only those of the prompt are sent."""
    if usage is None:
        return []
    return [
        (contract.PROMPT_TOKENS, [usage.prompt_tokens]),
        *([] if usage.cached_tokens is None else [(contract.CACHED_TOKENS, [usage.cached_tokens])]),
        *([(contract.COMPLETION_TOKENS, [usage.completion_tokens])] if n_choices == 1 else []),
    ]
