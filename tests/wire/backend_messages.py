"""KServe v2 messages as JSON that people can read, and back: the form of recorded/backends.

A tensor is a list of name, datatype, shape and values, and of its parameters if it has any. Both of its forms become
the same list; `raw` marks a message with the raw form. Bytes that aren't UTF-8 keep their value as lone surrogates. Ids
are replaced, because each request has a new one.
"""

from __future__ import annotations

import struct
from typing import Any

from google.protobuf import json_format

from protos import grpc_predict_v2_pb2 as messages

ID = "ID"
"""Stands for the id of a request."""
CODES = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
"""Field of the typed form, and struct's code of the raw one, by datatype."""
BARE = "bare"
"""The kind of a stream whose responses are of type ModelInferResponse, as MLServer's."""


def request_type(rpc: str) -> Any:
    return getattr(messages, f"{rpc.replace('ModelStreamInfer', 'ModelInfer')}Request")


def response_type(rpc: str, kind: str = "") -> Any:
    name = "ModelInfer" if rpc == "ModelStreamInfer" and kind == BARE else rpc
    return getattr(messages, f"{name}Response")


def to_json(message: Any) -> dict[str, Any]:
    """Returns a message with readable tensors. The message itself is changed."""
    match message:
        case messages.ModelStreamInferResponse():
            inner = {"infer_response": to_json(message.infer_response)} if message.HasField("infer_response") else {}
            message.ClearField("infer_response")
            return _fields(message) | inner
        case messages.ModelInferRequest():
            return _with_tensors(message, "inputs", "raw_input_contents")
        case messages.ModelInferResponse():
            return _with_tensors(message, "outputs", "raw_output_contents")
        case _:
            return _fields(message)


def _with_tensors(message: Any, tensors_field: str, raw_field: str) -> dict[str, Any]:
    raws = list(getattr(message, raw_field))
    rows = []
    for number, tensor in enumerate(getattr(message, tensors_field)):
        values = _from_raw(tensor.datatype, raws[number]) if raws else _from_contents(tensor)
        row = [tensor.name, tensor.datatype, list(tensor.shape), values]
        rows.append([*row, _fields(tensor)["parameters"]] if tensor.parameters else row)
    message.ClearField(tensors_field)
    message.ClearField(raw_field)
    found = _fields(message)
    if "id" in found:
        found["id"] = ID
    if rows:
        found["tensors"] = rows
    return found | ({"raw": True} if raws else {})


def from_json(found: dict[str, Any], message_type: Any, id: str = ID) -> Any:
    """Returns the message, with this id for the one that was replaced."""
    found = dict(found)
    inner, rows, is_raw = found.pop("infer_response", None), found.pop("tensors", ()), found.pop("raw", False)
    if found.get("id") == ID:
        found["id"] = id
    message = json_format.ParseDict(found, message_type())
    if inner is not None:
        message.infer_response.CopyFrom(from_json(inner, messages.ModelInferResponse, id))
    is_request = message_type is messages.ModelInferRequest
    for name, datatype, shape, values, *parameters in rows:
        tensor = (message.inputs if is_request else message.outputs).add(name=name, datatype=datatype, shape=shape)
        json_format.ParseDict({"parameters": parameters[0]} if parameters else {}, tensor)
        if is_raw:
            raws = message.raw_input_contents if is_request else message.raw_output_contents
            raws.append(_to_raw(tensor.datatype, values))
        else:
            _fill(tensor, values)
    return message


def _fields(message: Any) -> dict[str, Any]:
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _from_contents(tensor: Any) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [_text(data) for data in tensor.contents.bytes_contents]
    return list(getattr(tensor.contents, CODES[tensor.datatype][0]))


def _from_raw(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        return [value for (value,) in struct.iter_unpack(f"<{CODES[datatype][1]}", raw)]
    values = []
    while raw:
        end = 4 + struct.unpack_from("<I", raw)[0]
        values.append(_text(raw[4:end]))
        raw = raw[end:]
    return values


def _fill(tensor: Any, values: list[Any]) -> None:
    if tensor.datatype == "BYTES":
        tensor.contents.bytes_contents.extend(value.encode("utf-8", "surrogateescape") for value in values)
    elif values:
        getattr(tensor.contents, CODES[tensor.datatype][0]).extend(values)


def _to_raw(datatype: str, values: list[Any]) -> bytes:
    if datatype != "BYTES":
        return struct.pack(f"<{len(values)}{CODES[datatype][1]}", *values)
    encoded = [value.encode("utf-8", "surrogateescape") for value in values]
    return b"".join(struct.pack("<I", len(data)) + data for data in encoded)
