"""The body of a request to an API, and the fields of the client's request that the API can't take. PURE."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import quote

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.request import ChatRequest, Json
from anyserve_worker.pipelines.http_api.conversations import MessageForm, last_user_text
from anyserve_worker.pipelines.http_api.prompts import PromptTemplate
from anyserve_worker.pipelines.http_api.schema import Mapping
from anyserve_worker.pipelines.http_api.templates import ABSENT, JsonTemplate, scope_of

WITHOUT_EFFECT = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "stream_options"),
        *("prompt_cache_retention", "client_metadata"),
    )
)
"""Fields that label a request and don't change its answer."""
_ALWAYS = frozenset(("model", "messages", "stream"))
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "stop": ([], ""),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Values that mean the same as an absent field."""
_SOURCES = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "schema": ("response_format",),
    "tool_name": ("tool_choice",),
}
"""Fields that a value of another name comes from."""


_TOOL_VALUES = ("name", "description", "parameters", "strict")


def merged(base: Json, changes: Json) -> Json:
    """`changes` replace the values of `base`; tables are merged."""
    result = {**base, **changes}
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(old := base.get(key), dict):
            result[key] = merged(old, value)
    return result


class RequestForm:
    """Writes requests as a mapping describes."""

    def __init__(self, mapping: Mapping) -> None:
        """Raises ValueError."""
        request = mapping.request
        for path in (request.path, request.stream_path or request.path):
            if not path.startswith("/"):
                raise ValueError(f"request.path must begin with /, got {path!r}")
            if re.search(r"[{}]", path.replace("{model}", "")):
                raise ValueError(f"request.path may contain {{model}}, and no other value, got {path!r}")
        self._paths = {False: request.path, True: request.stream_path or request.path}
        self._bodies = {
            streams: JsonTemplate(merged(request.body, changes), "request.body")
            for streams, changes in ((False, request.when_whole), (True, request.when_streaming))
        }
        self.messages = MessageForm(mapping.messages)
        self.prompt = PromptTemplate(mapping.prompt)
        self.tool = None if mapping.tool is None else JsonTemplate(mapping.tool, "tool", _TOOL_VALUES)

    def names(self, streams: bool) -> frozenset[str]:
        """Names of the values in the body."""
        return self._bodies[streams].names

    def write(self, request: ChatRequest, model: str) -> tuple[str, Json, str | None]:
        """Path and body, and the prompt if the body has it. Raises InvalidInput for what the API can't take."""
        template = self._bodies[request.streams]
        _check_fields(request.body, template.names)
        values = _Values(request, model, self)
        body = template.render(values.get)
        path = self._paths[request.streams].replace("{model}", quote(model, safe=""))
        return path, {} if body is ABSENT else body, values.prompt if "prompt" in template.names else None


def _check_fields(body: Json, names: frozenset[str]) -> None:
    supported = names.union(*(_SOURCES.get(name, ()) for name in names))
    for field, value in body.items():
        if field in supported or field in _ALWAYS or field in WITHOUT_EFFECT or value is None:
            continue
        if not any(type(value) is type(neutral) and value == neutral for neutral in _neutral(field)):
            raise InvalidInput(f"This model doesn't support '{field}'.", field=field)
    if (n := body.get("n")) is not None and n != 1:
        raise InvalidInput("This model returns a single choice: 'n' must be 1.", field="n")


def _neutral(field: str) -> tuple[Any, ...]:
    values = _NEUTRAL.get(field, ())
    return values + tuple(float(value) for value in values if type(value) is int)


class _Values:
    """Values of a request by name. Those that take work are computed when a template first uses them."""

    def __init__(self, request: ChatRequest, model: str, form: RequestForm) -> None:
        self._request = request
        self._body = request.body
        self._model = model
        self._form = form
        self._derived: dict[str, Callable[[], Any]] = {
            "model": lambda: self._model,
            "stream": lambda: request.streams,
            "messages": lambda: form.messages.messages(request.messages),
            "system": lambda: form.messages.system(request.messages),
            "prompt": lambda: self.prompt,
            "last_user": lambda: last_user_text(request.messages),
            "max_tokens": self._max_tokens,
            "stop": self._stop,
            "tools": self._tools,
            "tool_choice": self._tool_choice,
            "tool_name": self._tool_name,
            "response_format": self._response_format,
            "schema": self._schema,
        }

    def get(self, name: str) -> Any:
        if name in self._derived:
            return self._derived[name]()
        return self._body.get(name)

    @cached_property
    def prompt(self) -> str:
        return self._form.prompt.render(self._form.messages.texts(self._request.messages))

    def _max_tokens(self) -> Any:
        value = self._body.get("max_completion_tokens")
        return self._body.get("max_tokens") if value is None else value

    def _stop(self) -> list[str] | None:
        stop = self._body.get("stop") or []
        stop = [stop] if isinstance(stop, str) else stop
        if "prompt" in self._form.names(self._request.streams):
            stop = [*stop, *(text for text in self._form.prompt.stop if text not in stop)]
        return stop or None

    def _tools(self) -> list[Any] | None:
        written = []
        for i, tool in enumerate(self._request.tools):
            function = tool.get("function")
            if not isinstance(function, dict):
                raise InvalidInput("This model supports tools of the type function.", field=f"tools.{i}.type")
            if self._form.tool is None:
                written.append(tool)
                continue
            values = {"parameters": {"type": "object", "properties": {}}, **function}
            written.append(self._form.tool.render(scope_of(values)))
        return written or None

    def _tool_choice(self) -> str | None:
        """`auto`, `required` or `named`; None: the request has no tools, or doesn't choose. Without calls (`none`), the
        tools aren't sent."""
        choice = self._body.get("tool_choice") if self._request.tools else None
        return choice if choice is None or isinstance(choice, str) else "named"

    def _tool_name(self) -> str | None:
        choice = self._body.get("tool_choice")
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(choice, dict) and not name:
            raise InvalidInput("This model supports the choice of a single function.", field="tool_choice")
        return name

    def _response_format(self) -> str | None:
        """`json_object` or `json_schema`; None: text."""
        format = self._body.get("response_format")
        kind = format.get("type") if isinstance(format, dict) else None
        return None if kind == "text" else kind

    def _schema(self) -> Any:
        format = self._body.get("response_format")
        if not isinstance(format, dict) or format.get("type") != "json_schema":
            return None
        schema = format.get("json_schema")
        return schema.get("schema") if isinstance(schema, dict) else None
