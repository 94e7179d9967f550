"""Prints the messages, enums and services of generated modules as JSON: `python -m tests.wire.descriptors MODULE…`.

It's a separate program, because one process can't hold two copies of the same protocol.
"""

import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto


def dump(modules: Iterable[str]) -> dict[str, Any]:
    description: dict[str, Any] = {"packages": {}, "messages": {}, "enums": {}, "services": {}}
    for module in modules:
        file = FileDescriptorProto()
        importlib.import_module(module).DESCRIPTOR.CopyToProto(file)
        description["packages"][module] = file.package
        for name, message in _messages("", file.message_type):
            description["messages"][name] = {field.name: _field(field, message) for field in message.field}
        for enum in file.enum_type:
            description["enums"][enum.name] = {value.name: value.number for value in enum.value}
        for service in file.service:
            description["services"][service.name] = {
                method.name: {
                    "input": method.input_type,
                    "output": method.output_type,
                    "client_streaming": method.client_streaming,
                    "server_streaming": method.server_streaming,
                }
                for method in service.method
            }
    return description


def _messages(prefix: str, messages: Iterable[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        yield prefix + message.name, message
        yield from _messages(f"{prefix}{message.name}.", message.nested_type)


def _field(field: FieldDescriptorProto, message: DescriptorProto) -> dict[str, Any]:
    return {
        "number": field.number,
        "type": FieldDescriptorProto.Type.Name(field.type),
        "label": FieldDescriptorProto.Label.Name(field.label),
        "type_name": field.type_name,
        "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
        "packed": field.options.packed if field.options.HasField("packed") else None,
    }


if __name__ == "__main__":
    print(json.dumps(dump(sys.argv[1:])))
