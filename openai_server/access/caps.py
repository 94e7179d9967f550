"""This server's limits on one request. PURE. Each error names the field.

The schemas limit the number of stop strings, tools, choices and inputs. The template's budget limits the length of a
rendered chat, and prompting/template.py the source of a template.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
from msgspec.structs import replace

from openai_server.core.errors import AboveLimit
from openai_server.core.turn import Prompt, PromptField, Turn

_MAX_GROWTH = 5
"""Factor by which a JSON value may grow when it is encoded again: `1e15` becomes `1000000000000000.0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Limits; 0 is no limit. `prompt` counts characters or token ids, `schema` the bytes of a schema (as compact JSON),
    regular expression or grammar, or of all texts to choose from."""

    output_tokens: int = 0
    n: int = 0
    prompt: int = 0
    schema: int = 0

    def applied(self, turn: Turn, fields: Iterable[PromptField], body_size: int) -> Turn:
        """The turn; without a token limit of its own it gets this server's. Raises AboveLimit.

        `fields` are the request's fields with prompts, `body_size` is the size of the request's body in bytes.
        """
        if self.n:
            self._check_n(turn)
        self.check_fields(fields, body_size)
        if self.schema and body_size * _MAX_GROWTH > self.schema:  # else nothing in it can be larger
            self._check_schemas(turn)
        limit = turn.token_limit
        if not self.output_tokens or (limit is not None and limit <= self.output_tokens):
            return turn
        if limit is None or turn.has_default_limit:
            return replace(turn, token_limit=self.output_tokens, has_default_limit=False)
        problem = f"is above this server's limit of {self.output_tokens} tokens"
        raise AboveLimit(turn.name("token_limit"), problem, kind="integer")

    def check_fields(self, fields: Iterable[PromptField], body_size: int) -> None:
        """Raises AboveLimit."""
        if self.prompt and body_size > self.prompt:  # else nothing in it can be longer
            for field in fields:
                self.check_prompts(field.name, field.prompts, is_list=field.is_list)

    def check_prompts(self, field: str, prompts: Sequence[Prompt], *, is_list: bool = False) -> None:
        """Raises AboveLimit."""
        if not self.prompt:
            return
        for i, prompt in enumerate(prompts):
            if len(prompt) > self.prompt:
                text = isinstance(prompt, str)
                raise AboveLimit(
                    f"{field}[{i}]" if is_list and (text or len(prompts) > 1) else field,
                    f"has more than {self.prompt} {'characters' if text else 'tokens'}, this server's limit",
                    kind="string" if text else "array",
                )

    def check_length(self, field: str, n_characters: int) -> None:
        """Checks the length of a conversation that is not rendered to a prompt. Raises AboveLimit."""
        if self.prompt and n_characters > self.prompt:
            raise AboveLimit(field, f"has more than {self.prompt} characters, this server's limit", kind="string")

    def _check_n(self, turn: Turn) -> None:
        for field, n in (("n_returned", turn.n_returned), ("n_to_send", turn.n_generated)):
            if n > self.n:
                raise AboveLimit(turn.name(field), f"is above this server's limit of {self.n}", kind="integer")

    def _check_schemas(self, turn: Turn) -> None:
        for field, size in _guides(turn):
            if size > self.schema:
                raise AboveLimit(field, f"is larger than {self.schema} bytes, this server's limit", kind="string")


def _guides(turn: Turn) -> Iterable[tuple[str, int]]:
    """The fields that the backend compiles before the first token, each with its size in bytes."""
    guide = turn.guide
    if text := guide.regex or guide.grammar or guide.lark:
        yield guide.field, len(text.encode())
    elif guide.choice is not None:
        yield guide.field, sum(len(text.encode()) for text in guide.choice)
    elif guide.json_schema is not None:
        yield guide.field, len(orjson.dumps(guide.json_schema))
    for i, tool in enumerate(turn.tools):
        if tool.custom is None:
            yield turn.tool_field(i), len(orjson.dumps(tool.function.parameters))
        else:
            yield turn.tool_field(i), len(tool.custom.definition.encode())
