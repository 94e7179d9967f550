"""Writes a chat's messages in the form of an API. PURE."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.request import Json
from anyserve_worker.pipelines.http_api.schema import Messages
from anyserve_worker.pipelines.http_api.templates import ABSENT, JsonTemplate, scope_of

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_SEPARATOR = "\n\n"


@dataclass(slots=True)
class _Message:
    role: str
    """The API's name of the role."""
    texts: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    """In base64."""
    parts: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    whole: Any = None
    """The message itself, instead of all other fields."""


class MessageForm:
    def __init__(self, form: Messages) -> None:
        """Raises ValueError."""
        self._form = form
        self._message = JsonTemplate(form.message, "messages.message", ("role", "content", "images", "calls"))
        self._text = JsonTemplate(form.text, "messages.text", ("text",))
        self._image, self._image_url, self._call, self._result = (
            None if source is None else JsonTemplate(source, f"messages.{name}", values)
            for name, source, values in (
                ("image", form.image, ("media_type", "data", "url")),
                ("image_url", form.image_url, ("url",)),
                ("call", form.call, ("id", "name", "arguments", "arguments_text")),
                ("result", form.result, ("text", "id", "name", "role")),
            )
        )
        self._has_parts = form.content == "parts"

    def system(self, messages: Sequence[Json]) -> str | None:
        """The text of the system messages; None: there are none."""
        texts = [_text(message, i) for i, message in enumerate(messages) if role_of(message) == "system"]
        return _SEPARATOR.join(texts) if texts else None

    def messages(self, messages: Sequence[Json]) -> list[Any]:
        """Raises InvalidInput."""
        written: list[_Message] = []
        names: dict[str, str] = {}
        for i, message in enumerate(messages):
            if role_of(message) == "system" and self._form.system == "apart":
                continue
            new = self._read(message, i, names)
            last = written[-1] if written else None
            if self._form.merge and last is not None and last.role == new.role and not (last.whole or new.whole):
                last.texts += new.texts
                last.images += new.images
                last.parts += new.parts
                last.calls += new.calls
            else:
                written.append(new)
        return [self._write(message) for message in written]

    def texts(self, messages: Sequence[Json]) -> list[Json]:
        """Roles and texts, for a prompt. Raises InvalidInput."""
        written = []
        for i, message in enumerate(messages):
            role = role_of(message)
            if role == "tool" or message.get("tool_calls"):
                raise InvalidInput("This model doesn't support tools.", field=f"messages.{i}")
            if role != "system" or self._form.system != "apart":
                written.append({"role": self._role(role, i), "content": _text(message, i)})
        return written

    def _role(self, role: str, i: int) -> str:
        for known, name in self._form.roles.items():
            if known == role:
                return name
        raise InvalidInput(f"This model doesn't support the role {role!r}.", field=f"messages.{i}.role")

    def _read(self, message: Json, i: int, names: dict[str, str]) -> _Message:
        """`names`: names of the calls so far by id; those of this message are added."""
        role = role_of(message)
        result = _Message(self._role(role, i))
        if role == "tool":
            self._read_result(result, message, i, names)
            return result
        for j, part in enumerate(_parts(message)):
            self._read_part(result, part, f"messages.{i}.content.{j}")
        if message.get("function_call"):
            raise InvalidInput("Use tool_calls instead of function_call.", field=f"messages.{i}.function_call")
        for j, call in enumerate(message.get("tool_calls") or ()):
            written = self._written_call(call, f"messages.{i}.tool_calls.{j}", names)
            (result.parts if self._form.calls == "parts" else result.calls).append(written)
        return result

    def _read_result(self, result: _Message, message: Json, i: int, names: dict[str, str]) -> None:
        if self._result is None:
            raise InvalidInput("This model doesn't support tools.", field=f"messages.{i}.role")
        id = message.get("tool_call_id") or ""
        values = {"text": _text(message, i), "id": id, "name": names.get(id), "role": result.role}
        written = self._result.render(scope_of(values))
        if self._form.results == "parts":
            result.parts.append(written)
        else:
            result.whole = written

    def _read_part(self, result: _Message, part: Json, where: str) -> None:
        kind = part.get("type")
        if kind in ("text", "refusal") and isinstance(text := part.get(kind), str):
            if text:
                result.texts.append(text)
                if self._has_parts:
                    result.parts.append(self._text.render(scope_of({"text": text})))
            return
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if kind != "image_url" or not isinstance(url, str):
            raise InvalidInput(f"This model doesn't support parts of the type {kind!r}.", field=where)
        if data := _DATA_URL.fullmatch(url):
            if self._has_parts and self._image is not None:
                result.parts.append(self._image.render(scope_of({"media_type": data[1], "data": data[2], "url": url})))
            elif "images" in self._message.names:
                result.images.append(data[2])
            else:
                raise InvalidInput("This model doesn't support images.", field=where)
        elif self._has_parts and self._image_url is not None:
            result.parts.append(self._image_url.render(scope_of({"url": url})))
        else:
            raise InvalidInput("This model supports no URLs of images.", field=where)

    def _written_call(self, call: Json, where: str, names: dict[str, str]) -> Any:
        function = call.get("function")
        if self._call is None or not isinstance(function, dict):
            raise InvalidInput("This model doesn't support such tool calls.", field=where)
        name, id, text = function.get("name", ""), call.get("id") or "", function.get("arguments") or "{}"
        names[id] = name
        try:
            arguments = json.loads(text, parse_constant=_refuse_constant) if isinstance(text, str) else text
        except (ValueError, RecursionError):
            raise InvalidInput(
                "The arguments of a tool call must be JSON.", field=f"{where}.function.arguments"
            ) from None
        return self._call.render(scope_of({"id": id, "name": name, "arguments": arguments, "arguments_text": text}))

    def _write(self, message: _Message) -> Any:
        if message.whole is not None:
            return message.whole
        content: Any = message.parts if self._has_parts else _SEPARATOR.join(message.texts)
        values = {
            "role": message.role,
            "content": None if message.calls and not content else content,
            "images": message.images or None,
            "calls": message.calls or None,
        }
        written = self._message.render(scope_of(values))
        return {} if written is ABSENT else written


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def role_of(message: Json) -> str:
    role = message.get("role")
    return "system" if role == "developer" else str(role)


def _parts(message: Json) -> Iterable[Json]:
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]


def _text(message: Json, i: int) -> str:
    """The message's text. Raises InvalidInput if it has other parts."""
    texts = []
    for j, part in enumerate(_parts(message)):
        kind = part.get("type")
        if kind not in ("text", "refusal"):
            raise InvalidInput(
                f"This model doesn't support parts of the type {kind!r}.", field=f"messages.{i}.content.{j}"
            )
        texts.append(str(part.get(kind) or ""))
    return _SEPARATOR.join(texts)


def last_user_text(messages: Sequence[Json]) -> str:
    """Raises InvalidInput if there is none."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].get("role") == "user":
            return _text(messages[i], i)
    raise InvalidInput("There must be a message of the user.", field="messages")
