"""JSON to validated requests.

PURE. `requests` has the Structs (those for messages and tools are in `core`). `fields` decides how each key is handled,
with the tables of `tables`; `dialects` lists the keys of other servers. `parse` combines all of them.
"""

from openai_server.api.schemas.bounds import MAX_CHOICES as MAX_CHOICES
from openai_server.api.schemas.fields import ALLOWED_TOOLS_FIELDS as ALLOWED_TOOLS_FIELDS
from openai_server.api.schemas.fields import ANSWER_PART_FIELDS as ANSWER_PART_FIELDS
from openai_server.api.schemas.fields import AUDIO_FIELDS as AUDIO_FIELDS
from openai_server.api.schemas.fields import CHAT_FIELDS as CHAT_FIELDS
from openai_server.api.schemas.fields import COMPLETION_FIELDS as COMPLETION_FIELDS
from openai_server.api.schemas.fields import CUSTOM_CALL_FIELDS as CUSTOM_CALL_FIELDS
from openai_server.api.schemas.fields import CUSTOM_FIELDS as CUSTOM_FIELDS
from openai_server.api.schemas.fields import CUSTOM_FORMAT_FIELDS as CUSTOM_FORMAT_FIELDS
from openai_server.api.schemas.fields import CUSTOM_TOOL_CALL_FIELDS as CUSTOM_TOOL_CALL_FIELDS
from openai_server.api.schemas.fields import CUSTOM_TOOL_FIELDS as CUSTOM_TOOL_FIELDS
from openai_server.api.schemas.fields import FUNCTION_CALL_FIELDS as FUNCTION_CALL_FIELDS
from openai_server.api.schemas.fields import FUNCTION_FIELDS as FUNCTION_FIELDS
from openai_server.api.schemas.fields import FUNCTION_NAME_FIELDS as FUNCTION_NAME_FIELDS
from openai_server.api.schemas.fields import GRAMMAR_DEFINITION_FIELDS as GRAMMAR_DEFINITION_FIELDS
from openai_server.api.schemas.fields import MESSAGE_FIELDS as MESSAGE_FIELDS
from openai_server.api.schemas.fields import NAMED_SCHEMA_FIELDS as NAMED_SCHEMA_FIELDS
from openai_server.api.schemas.fields import NO_EFFECT as NO_EFFECT
from openai_server.api.schemas.fields import PART_FIELDS as PART_FIELDS
from openai_server.api.schemas.fields import REQUESTS as REQUESTS
from openai_server.api.schemas.fields import RESPONSE_FORMAT_FIELDS as RESPONSE_FORMAT_FIELDS
from openai_server.api.schemas.fields import STREAM_OPTIONS_FIELDS as STREAM_OPTIONS_FIELDS
from openai_server.api.schemas.fields import STRUCTURED_OUTPUTS_FIELDS as STRUCTURED_OUTPUTS_FIELDS
from openai_server.api.schemas.fields import TOOL_CALL_FIELDS as TOOL_CALL_FIELDS
from openai_server.api.schemas.fields import TOOL_CHOICE_FIELDS as TOOL_CHOICE_FIELDS
from openai_server.api.schemas.fields import TOOL_FIELDS as TOOL_FIELDS
from openai_server.api.schemas.guides import GuideFields as GuideFields
from openai_server.api.schemas.guides import Text as Text
from openai_server.api.schemas.parse import check_extensions as check_extensions
from openai_server.api.schemas.parse import check_reasoning_limits as check_reasoning_limits
from openai_server.api.schemas.parse import convert as convert
from openai_server.api.schemas.parse import load as load
from openai_server.api.schemas.parse import parse_chat as parse_chat
from openai_server.api.schemas.parse import parse_completion as parse_completion
from openai_server.api.schemas.parse import parse_messages as parse_messages
from openai_server.api.schemas.requests import INT64_MAX as INT64_MAX
from openai_server.api.schemas.requests import ChatRequest as ChatRequest
from openai_server.api.schemas.requests import CompletionRequest as CompletionRequest
from openai_server.api.schemas.requests import GenerateRequest as GenerateRequest
from openai_server.api.schemas.requests import GenerationFields as GenerationFields
from openai_server.api.schemas.requests import Request as Request
from openai_server.api.schemas.requests import TokenId as TokenId
from openai_server.api.schemas.requests import prompts_of as prompts_of
from openai_server.api.schemas.tables import Fields as Fields
from openai_server.api.schemas.tables import ListOf as ListOf
from openai_server.api.schemas.tables import mapped as mapped
