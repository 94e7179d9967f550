"""The dialect of models that take chats: they get the conversation and the request's other fields as JSON. PURE."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from openai_server.backends.dialects.anyserve import dialect as own
from openai_server.backends.dialects.anyserve.decode import stream_error
from openai_server.backends.dialects.base import (
    Call,
    Explanation,
    Recognized,
    Rpc,
    ServerInputs,
    Target,
    UnusableModel,
)
from openai_server.backends.dialects.chat.fields import BodyFields
from openai_server.backends.dialects.chat.limits import check_body, check_without_body
from openai_server.backends.dialects.chat.reader import ChatReader
from openai_server.backends.dialects.description import TRITON, UNARY_SERVERS, Description, TensorDescription
from openai_server.core.chat_form import chat_fields, messages_form
from openai_server.core.errors import OnlyChats
from openai_server.core.input_items import input_items
from openai_server.core.messages import text_of
from openai_server.core.turn import Prompt, Turn
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest

NAME = "chat"
TASKS = frozenset({contract.TASK_CHAT, contract.TASK_RESPONSES})
TRITON_STATUS = (("triton_grpc_error", "true"),)
"""Metadata with which Triton reports the status of an error in a stream; without it, only the message."""
_INPUTS = {spec.name: spec for spec in (contract.MESSAGES, contract.BODY, contract.INPUT_ITEMS)}
_ANSWERS = frozenset(spec.name for spec in (contract.TEXT, contract.TOKEN, contract.EVENTS))


class Chat:
    """A model that lists the task `generate` too gets prompts in this project's contract. Raises UnusableModel for a
    model without an input for the messages."""

    name = NAME
    takes_messages = True
    answers_in_events = True
    collects = True

    def __init__(self, description: Description) -> None:
        described = {tensor.name: tensor for tensor in description.inputs}
        if not described and description.server.is_own:
            described = {name: TensorDescription(name, tensors.BYTES, (1,)) for name in _INPUTS}
        if not _is_text(described.get(contract.MESSAGES.name)):
            raise UnusableModel(f"it has no input '{contract.MESSAGES.name}' of type BYTES")
        self._inputs = {name: tensor for name, tensor in described.items() if name in _INPUTS and _is_text(tensor)}
        self._prompts = own.bound(description) if contract.TASK_GENERATE in description.tasks else None
        self.input_names = frozenset(described) if self._prompts is not None else frozenset(self._inputs)
        self._tasks = description.tasks & TASKS or _tasks_by_inputs(description)
        self.parameters: Mapping[str, str] = {"tasks": ",".join(sorted(self._tasks))}
        self._rpc = _rpc(description)
        self._is_triton = description.server.name == TRITON
        self._marks_end = self._is_triton and description.is_decoupled is not False

    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs, *, streams: bool
    ) -> Iterator[Call]:
        """Raises OnlyChats too, for a turn with prompts that the model doesn't take."""
        if not turn.messages:
            if self._prompts is None:
                raise OnlyChats(target.model, turn.name("prompt"))
            yield from self._prompts.calls(turn, prompts, target, server_inputs, streams=streams)
            return
        check_body(turn, target.model)
        if contract.BODY.name not in self._inputs:
            check_without_body(turn, target.model)
        request = self._request(turn, target, streams=streams)
        if self._rpc is not Rpc.EITHER:
            yield self._call(request, turn, self._rpc, streams=streams)
            return
        first, other = (Rpc.STREAM, Rpc.UNARY) if streams else (Rpc.UNARY, Rpc.STREAM)
        call = self._call(request, turn, first, streams=streams)
        call.fallback = partial(self._call, request, turn, other, streams=streams)
        yield call

    def _call(self, request: ModelInferRequest, turn: Turn, rpc: Rpc, *, streams: bool) -> Call:
        derives_stop = streams and self._marks_end
        reader = partial(ChatReader, turn.n_returned, is_unary=rpc is Rpc.UNARY, derives_stop=derives_stop)
        metadata = TRITON_STATUS if self._is_triton else ()
        return Call(request, turn.n_returned, rpc, reader, stream_error, contract.MESSAGES.name, metadata=metadata)

    def _request(self, turn: Turn, target: Target, *, streams: bool) -> ModelInferRequest:
        request = ModelInferRequest(model_name=target.model, model_version=target.version, id=target.id)
        task = self._task(turn)
        request.parameters[contract.PARAM_TASK].string_param = task
        if self._marks_end:
            request.parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
        messages = orjson.Fragment(orjson.dumps(messages_form(turn.messages)))  # for the tensor and for the body
        self._add(request, contract.MESSAGES.name, messages)
        if contract.BODY.name in self._inputs:
            body = {"messages": messages, **chat_fields(turn, target.model, streams=streams)}
            if task == contract.TASK_RESPONSES and _has_instructions(turn):
                body["instructions"] = text_of(turn.messages[0])
            self._add(request, contract.BODY.name, body)
        if task == contract.TASK_RESPONSES and contract.INPUT_ITEMS.name in self._inputs:
            own = turn.messages[1:] if _has_instructions(turn) else turn.messages
            self._add(request, contract.INPUT_ITEMS.name, input_items(own))
        return request

    def _add(self, request: ModelInferRequest, name: str, value: Any) -> None:
        tensor = self._inputs[name]
        tensors.add_tensor(request, name, tensors.BYTES, len(tensor.shape) or 1, [orjson.dumps(value)])

    def _task(self, turn: Turn) -> str:
        if turn.in_items and contract.TASK_RESPONSES in self._tasks:
            return contract.TASK_RESPONSES
        return contract.TASK_CHAT if contract.TASK_CHAT in self._tasks else contract.TASK_RESPONSES

    def fields(self, turn: Turn) -> Mapping[str, str]:
        if not turn.messages and self._prompts is not None:
            return self._prompts.fields(turn)
        return BodyFields(turn)

    def explain(self) -> Explanation:
        forms = {
            contract.MESSAGES.name: "a JSON array, as in OpenAI's chat",
            contract.BODY.name: "a JSON object with all other fields; the model decides which it follows",
            contract.INPUT_ITEMS.name: "a JSON array, as in OpenAI's Responses API",
        }
        inputs = {name: f"tensor {name} ({form})" for name, form in forms.items() if name in self._inputs}
        refused = ["logprobs"] if contract.BODY.name in self._inputs else ["all fields but messages"]
        if self._prompts is not None:
            inputs |= self._prompts.explain().inputs
            refused = [f"{name} (chats)" for name in refused]
        return Explanation(
            rpc=self._rpc.value,
            inputs=inputs,
            refused=refused if self._prompts is not None else ["prompts", *refused],
            text=f"tensor {contract.EVENTS.name}, {contract.TOKEN.name} or {contract.TEXT.name}",
            end=f"an event {contract.EVENT_FINISH}, a finish reason, or {contract.PARAM_FINAL}",
            finish_reason=f"an event {contract.EVENT_FINISH}, or tensor {contract.FINISH_REASON.name}",
            counts=f"an event {contract.EVENT_USAGE}, or tensors {contract.PROMPT_TOKENS.name} and "
            f"{contract.COMPLETION_TOKENS.name}",
            logprobs="absent",
        )


def recognize_task(description: Description) -> Recognized | None:
    """The dialect for a model that lists one of TASKS. Raises UnusableModel if its tensors don't fit, unless it may do
    without chats."""
    if not description.tasks & TASKS:
        return None
    has_messages = not description.inputs or contract.MESSAGES.name in description.input_names
    if contract.TASK_GENERATE in description.tasks and not has_messages:
        return None
    return Recognized(Chat(description), f"its tasks are {', '.join(sorted(description.tasks))}")


def recognize_tensors(description: Description) -> Recognized | None:
    """The dialect for a model with the tensors of a chat, and no others that a request must have."""
    if description.required - _INPUTS.keys() or not description.output_names & _ANSWERS:
        return None
    if not _is_text(next((tensor for tensor in description.inputs if tensor.name == contract.MESSAGES.name), None)):
        return None
    return Recognized(Chat(description), "it has the messages and the answer of a chat in this project's contract")


def _is_text(tensor: TensorDescription | None) -> bool:
    return tensor is not None and tensor.datatype in (tensors.BYTES, "")


def _tasks_by_inputs(description: Description) -> frozenset[str]:
    """The tasks of a model that lists none."""
    if contract.INPUT_ITEMS.name not in description.input_names:
        return frozenset({contract.TASK_CHAT})
    return TASKS - {contract.TASK_CHAT} if contract.INPUT_ITEMS.name in description.required else TASKS


def _rpc(description: Description) -> Rpc:
    if description.server.name in UNARY_SERVERS:
        return Rpc.UNARY
    return Rpc.STREAM if description.needs_streams else Rpc.EITHER


def _has_instructions(turn: Turn) -> bool:
    """Whether the first message is the field `instructions` of the Responses API."""
    return turn.in_items and bool(turn.message_fields) and turn.message_fields[0] == "instructions"
