"""The dialect of a model that a mapping file describes. PURE."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from openai_server.backends.dialects.base import Call, Explanation, Rpc, ServerInputs, Target, UnusableModel
from openai_server.backends.dialects.description import TRITON, UNARY_SERVERS, Description, TensorDescription
from openai_server.backends.dialects.guides import with_server_inputs
from openai_server.backends.dialects.inputs import INPUT_ROWS, fields, is_omittable, unsupported, values_of
from openai_server.backends.dialects.mapping import errors
from openai_server.backends.dialects.mapping.chat import MessagePlaces
from openai_server.backends.dialects.mapping.conversions import merged, seed_for, set_parameter
from openai_server.backends.dialects.mapping.draft import Draft
from openai_server.backends.dialects.mapping.explain import explain_outputs
from openai_server.backends.dialects.mapping.output_places import bind_outputs
from openai_server.backends.dialects.mapping.places import BoundPlace, Tensors, bind, check_apart, constants
from openai_server.backends.dialects.mapping.reader import MappedReader, ReadOptions
from openai_server.backends.dialects.mapping.schema import MappingFile, Text
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.turn import Prompt, Turn
from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest

INPUTS: Mapping[str, TensorSpec] = {
    spec.name: spec
    for spec in contract.INPUTS
    if spec not in (contract.PLAIN_SPANS, contract.TIMINGS, contract.PROMPT_PROGRESS, contract.ECHO)
}
"""Inputs of the contract that a mapping file may map, by name."""


class Mapped:
    """`file` bound to one model. Raises UnusableModel."""

    answers_in_events = False
    collects = True

    def __init__(self, file: MappingFile, description: Description) -> None:
        inputs = Tensors(description, are_listed=file.lists_inputs)
        self.name = file.name
        self._file = file
        self._places: dict[str, BoundPlace] = {}
        for name, names in file.inputs.items():
            if (place := bind(INPUTS[name], names, inputs)) is not None:
                self._places[name] = place
        self._messages = MessagePlaces.bind(file.messages, inputs)
        self._json: TensorDescription | None = None
        self._json_constants: dict[str, Any] = {}
        if file.json is not None:
            self._json = inputs.text(file.json.tensor, file.json.type, file.json.rank)
            self._json_constants = file.json.always
        if self._json is None:
            self._places = {name: place for name, place in self._places.items() if not place.place.key}
        if self._messages is None and not _PROMPTS & self._places.keys():
            raise UnusableModel("it has no input of the right type for the prompt")
        self._rpc = _rpc(file, description)
        self._stream_rpc = Rpc.BARE_STREAM if file.rpc == "both_bare" else Rpc.STREAM
        self._constants = constants(file.always, inputs)
        self._constants_of_streams = constants(file.when_streaming, inputs)
        self._constants_of_whole = constants(file.when_whole, inputs)
        check_apart(self._uses())
        self._outputs = bind_outputs(file.outputs, description, are_listed=file.lists_inputs)
        is_triton = description.server.name == TRITON
        end = file.outputs.end or (contract.PARAM_FINAL if is_triton else "rpc")
        self._marks_end = is_triton or end == contract.PARAM_FINAL
        self._end = end
        self._is_cumulative = _is_cumulative(file.outputs.text, description)
        self.input_names = frozenset(self._places)
        self.parameters = _parameters(file)
        self._error_of = partial(errors.stream_error, file.errors)

    def _uses(self) -> Iterator[tuple[str, str, str]]:
        """The uses of each tensor, as `check_apart` takes them."""
        for name, place in self._places.items():
            if place.tensor is not None:
                group = "prompt" if name in _PROMPTS else "guide" if name in _GUIDES else name
                yield place.tensor.name, f"the input '{name}'", group
        for tensor in self._messages.tensors if self._messages else ():
            yield tensor.name, "the messages", "prompt"
        if self._json is not None:
            yield self._json.name, "the JSON object", "json"
        for constant in self._constants:
            yield constant.tensor.name, f"the constant {list(constant.elements)}", "always"
        for constant in (*self._constants_of_streams, *self._constants_of_whole):
            yield constant.tensor.name, f"the constant {list(constant.elements)} of some calls", "call"

    @property
    def takes_messages(self) -> bool:
        return self._messages is not None

    @property
    def constant_inputs(self) -> frozenset[str]:
        """Tensors that every request has."""
        names = {
            place.tensor.name for place in self._places.values() if place.place.default is not None and place.tensor
        }
        names |= {constant.tensor.name for constant in self._constants}
        if self._json is not None:
            names.add(self._json.name)
        names |= set.intersection(*self._tensors_by_call()) | set.intersection(*self._tensors_by_prompt())
        return frozenset(names)

    def _tensors_by_call(self) -> Iterator[set[str]]:
        """The tensors of each kind of call that the model may get, besides those of all calls."""
        if self._rpc is not Rpc.UNARY:
            yield {constant.tensor.name for constant in self._constants_of_streams}
        if self._rpc in (Rpc.UNARY, Rpc.EITHER):
            yield {constant.tensor.name for constant in self._constants_of_whole}

    def _tensors_by_prompt(self) -> Iterator[set[str]]:
        """The tensors of each form of a prompt that the model takes."""
        for name in _PROMPTS & self._places.keys():
            tensor = self._places[name].tensor
            yield {tensor.name} if tensor is not None else set()
        if self._messages is not None:
            yield {tensor.name for tensor in self._messages.tensors}

    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs, *, streams: bool
    ) -> Iterator[Call]:
        if turn.chooses_best and contract.LOGPROBS.name not in self._places:
            raise unsupported(turn.name("n_to_send"), target.model)
        turn, server_inputs = with_server_inputs(turn, target, server_inputs)
        by_messages = self._messages is not None and bool(turn.messages)
        for k, prompt in enumerate([""] if by_messages else prompts):
            build = partial(self._call, turn, prompt, target, server_inputs, streams=streams)
            id = f"{target.id}-{k}" if len(prompts) > 1 else target.id
            if self._rpc is not Rpc.EITHER:
                yield build(self._rpc, id)
                continue
            call = build(self._stream_rpc if streams else Rpc.UNARY, id)
            call.fallback = partial(build, Rpc.UNARY if streams else self._stream_rpc, id)
            yield call

    def _call(
        self,
        turn: Turn,
        prompt: Prompt,
        target: Target,
        server_inputs: ServerInputs,
        rpc: Rpc,
        id: str,
        *,
        streams: bool,
    ) -> Call:
        address, is_unary = self._file.address, rpc is Rpc.UNARY
        name = (address.whole if is_unary else address.stream) or target.model
        version = target.version or address.version or ""
        draft = Draft(ModelInferRequest(model_name=name, model_version=version, id=id))
        if self._messages is not None and turn.messages:
            self._messages.put(draft, turn)
            prompt_input = self._messages.messages.name
        else:
            self._put_prompt(draft, prompt, turn, target)
            prompt_input = draft.request.inputs[0].name if draft.request.inputs else ""
        limit = self._put_fields(draft, turn, target, server_inputs)
        draft.add_constants(self._constants)
        draft.add_constants(self._constants_of_whole if is_unary else self._constants_of_streams)
        if self._json is not None:
            draft.add(self._json, [orjson.dumps(merged(self._json_constants, draft.json))])
        for parameter, value in self._file.request_parameters.items():
            set_parameter(draft.request.parameters[parameter], value)
        if self._marks_end and not is_unary:
            draft.request.parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
        options = ReadOptions(
            n=turn.n_returned if streams else turn.n_generated,
            prompt=prompt if isinstance(prompt, str) else "",
            echoes=bool(turn.echo),
            stops=self._stops(turn),
            token_limit=limit,
            n_top=turn.top_logprobs or 0,
            is_cumulative=self._is_cumulative,
            is_unary=is_unary,
            streams=streams,
        )
        reader = partial(MappedReader, self._outputs, self._end, options)
        return Call(draft.request, options.n, rpc, reader, self._error_of, prompt_input)

    def _put_prompt(self, draft: Draft, prompt: Prompt, turn: Turn, target: Target) -> None:
        spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
        if (place := self._places.get(spec.name)) is None:
            form = "as text" if isinstance(prompt, str) else "as token ids"
            field = turn.name("prompt")
            raise UnsupportedParameter(field, f"The model '{target.model}' accepts no prompt {form}.")
        draft.put(place, [prompt.encode()] if isinstance(prompt, str) else _ids(prompt), turn.name("prompt"))

    def _put_fields(self, draft: Draft, turn: Turn, target: Target, server_inputs: ServerInputs) -> int | None:
        """Adds the fields of the turn and the defaults of the file. Returns the limit of tokens."""
        names = fields(turn)
        elements_by_name: dict[str, Sequence[Any]] = {spec.name: elements for spec, elements in server_inputs.items()}
        for row, value in zip(INPUT_ROWS, values_of(turn), strict=True):
            name = row.tensor.name
            if value is None or name in elements_by_name:
                continue
            elements = row.elements(value) if row.elements else (value,)
            if not elements:
                continue
            if name in self._places:
                elements_by_name[name] = _seed(value, self._places[name]) if name == contract.SEED.name else elements
            elif name == contract.ECHO.name and turn.top_logprobs is None:
                self._check_echo(turn, target)
            elif not is_omittable(row, elements, turn):
                raise unsupported(names[name], target.model)
        for name, place in self._places.items():
            if place.place.default is not None and name not in elements_by_name:
                default = place.place.default
                elements_by_name[name] = default if isinstance(default, list) else [default]
        for name, elements in elements_by_name.items():
            draft.put(self._places[name], elements, names.get(name, name))
        return elements_by_name[_LIMIT][0] if _LIMIT in elements_by_name else None

    def _stops(self, turn: Turn) -> tuple[str, ...]:
        """The stop strings of the request, or those that the file has by default. Raises UnsupportedParameter."""
        stops: Sequence[str] = turn.sampling.stop or ()
        if not stops and (place := self._places.get(contract.STOP.name)) is not None:
            default = place.place.default or ()
            stops = [default] if isinstance(default, str) else default if isinstance(default, list) else ()
        text = self._outputs.text
        if isinstance(text, Text) and text.keeps_stop and any(len(stop.encode()) > MAX_STOP for stop in stops):
            field = turn.name("stop")
            raise UnsupportedParameter(field, f"'{field}' is limited to {MAX_STOP} bytes each for this model.")
        return tuple(stops)

    def _check_echo(self, turn: Turn, target: Target) -> None:
        """The reader adds the prompt, if it is a text."""
        if turn.echo and not all(isinstance(prompt, str) for prompt in turn.prompts):
            raise unsupported(turn.name("echo"), target.model)

    def fields(self, turn: Turn) -> Mapping[str, str]:
        """Also by the names of the backend's tensors, which its errors may have."""
        names = fields(turn)
        return {
            **{
                place.tensor.name: names[name] for name, place in self._places.items() if place.tensor and name in names
            },
            **names,
        }

    def explain(self) -> Explanation:
        inputs = {name: place.describe() for name, place in self._places.items()}
        if self._messages is not None:
            inputs = {"messages": self._messages.describe(), **inputs}
        if contract.PROMPT.name in inputs:
            inputs[contract.ECHO.name] = "added by this server, without log probabilities"
        end = self._end if isinstance(self._end, str) else f"tensor {self._end.tensor}" if self._end.tensor else ""
        outputs = explain_outputs(self._outputs)
        return Explanation(rpc=self._rpc.value, inputs=inputs, end=end or "a text that marks it", **outputs)


MAX_STOP = 4096
"""Bytes of a stop string that this server cuts off: as much text is held back."""
_LIMIT = contract.MAX_TOKENS.name
_PROMPTS = frozenset({contract.PROMPT.name, contract.PROMPT_TOKEN_IDS.name})
_GUIDES = frozenset(spec.name for spec in contract.GUIDES)


def _seed(seed: int, place: BoundPlace) -> Sequence[int]:
    return [seed_for(seed, place.tensor.datatype if place.tensor is not None else None)]


def _ids(prompt: Prompt) -> Sequence[int]:
    if isinstance(prompt, list):
        return prompt
    assert not isinstance(prompt, str)
    return prompt.elements("INT32")


def _is_cumulative(text: str | Text, description: Description) -> bool:
    if isinstance(text, str):
        return False
    if isinstance(text.cumulative, bool):
        return text.cumulative
    return description.settings.get(text.cumulative.parameter) == text.cumulative.value


def _parameters(file: MappingFile) -> dict[str, str]:
    parameters = {}
    if file.model.chat_template is not None:
        parameters["chat_template"] = file.model.chat_template
    if file.model.context_length is not None:
        parameters["context_length"] = str(file.model.context_length)
    return parameters


def _rpc(file: MappingFile, description: Description) -> Rpc:
    match file.rpc:
        case "unary":
            return Rpc.UNARY
        case "stream":
            return Rpc.STREAM
        case "bare_stream":
            return Rpc.BARE_STREAM
        case "both" | "both_bare":
            return Rpc.EITHER
    if description.server.name in UNARY_SERVERS or description.is_decoupled is False:
        return Rpc.UNARY
    return Rpc.STREAM if description.needs_streams else Rpc.EITHER
