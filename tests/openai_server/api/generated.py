"""An answer of a backend."""

from openai_server.api.generation import ResolvedModel
from openai_server.core.answer import Answer, Choice
from openai_server.core.usage import Usage

MODEL = ResolvedModel("m")
ANSWER = Answer([Choice(0, "a", "stop")], Usage(2, 3, 0))
