"""Parameters of URLs of stored objects, for the OpenAPI document. PURE."""

from openai_server.api.endpoint import Parameter
from openai_server.api.responses.input.fields import INCLUDABLE
from openai_server.api.responses.retrieval.query import DEFAULT_LIMIT, MAX_LIMIT
from protos import contract

_TEXT = {"type": "string", "minLength": 1}

RESPONSE_ID = Parameter("response_id", "Id of the response.", _TEXT, "resp_cfaf49a9d6c26f12e104c0850da7761f")
CONVERSATION_ID = Parameter(
    "conversation_id", "Id of the conversation.", _TEXT, "conv_7b1f0c2d9e8a4b5c6d7e8f9012345678"
)
ITEM_ID = Parameter("item_id", "Id of the item.", _TEXT, "msg_4f1c2a9be0d34e7c8a5b6d7e8f901234i00")
INCLUDE = Parameter(
    "include",
    "Parts of items that the response has only on request; `include[]` is the same. Sealed reasoning is returned "
    "with `reasoning.encrypted_content`, log probabilities with `message.output_text.logprobs`.",
    {"type": "array", "items": {"enum": list(INCLUDABLE)}},
    ["message.output_text.logprobs"],
)
PAGE = (
    Parameter("after", "Id of the item before the first one of the page.", _TEXT, ITEM_ID.example),
    Parameter(
        "limit",
        "Maximum number of items.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        DEFAULT_LIMIT,
    ),
    Parameter("order", "`asc` begins with the oldest item.", {"enum": ["asc", "desc"], "default": "desc"}, "desc"),
)
STREAM = (
    Parameter("stream", "Whether to return the response as a stream.", {"type": "boolean", "default": False}, False),
    Parameter(
        "starting_after",
        "Number of the event after which the stream begins. Only with `stream`.",
        {"type": "integer", "minimum": 0, "maximum": contract.INT32_MAX},
        10,
    ),
    Parameter("include_obfuscation", "Only `false` is supported.", {"const": False}, False),
)
