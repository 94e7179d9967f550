"""All endpoints. A new endpoint needs a folder and a line here.

These are generated from the entries: the router (`dispatcher.py`), the names in metrics and logs, the paths that need
no API key, the OpenAPI document (`openapi.py`, and the page at `/docs`), and the tables of docs/fields.md
(`scripts/fields.py`).
"""

from openai_server.api.batches.endpoint import BATCHES
from openai_server.api.chat.endpoint import CHAT
from openai_server.api.completions.endpoint import COMPLETIONS
from openai_server.api.conversations.endpoint import CONVERSATIONS
from openai_server.api.docs.endpoint import OPENAPI, PAGE
from openai_server.api.embeddings.endpoint import EMBEDDINGS
from openai_server.api.endpoint import Endpoint
from openai_server.api.files.endpoint import FILES
from openai_server.api.health.endpoint import HEALTH, LIVE, READY
from openai_server.api.messages.endpoint import COUNT_TOKENS, MESSAGES
from openai_server.api.metrics.endpoint import METRICS
from openai_server.api.models.endpoint import MODEL, MODELS
from openai_server.api.rerank.endpoint import RERANK
from openai_server.api.responses.endpoint import (
    RESPONSES,
    RESPONSES_CANCEL,
    RESPONSES_COMPACT,
    RESPONSES_INPUT_TOKENS,
)
from openai_server.api.responses.retrieval.endpoint import DELETE_RESPONSE, GET_RESPONSE, RESPONSE_INPUT_ITEMS
from openai_server.api.tokens.endpoint import APPLY_TEMPLATE, CHAT_INPUT_TOKENS, DETOKENIZE, TOKENIZE, TOKENIZER_INFO
from openai_server.api.uploads.endpoint import UPLOADS

ENDPOINTS: tuple[Endpoint, ...] = (
    COMPLETIONS,
    CHAT,
    RESPONSES,
    RESPONSES_INPUT_TOKENS,
    RESPONSES_COMPACT,
    GET_RESPONSE,
    RESPONSES_CANCEL,
    DELETE_RESPONSE,
    RESPONSE_INPUT_ITEMS,
    *CONVERSATIONS,
    *FILES,
    *UPLOADS,
    *BATCHES,
    MESSAGES,
    COUNT_TOKENS,
    EMBEDDINGS,
    RERANK,
    TOKENIZE,
    DETOKENIZE,
    APPLY_TEMPLATE,
    CHAT_INPUT_TOKENS,
    TOKENIZER_INFO,
    MODELS,
    MODEL,
    OPENAPI,
    PAGE,
    LIVE,
    READY,
    HEALTH,
    METRICS,
)
"""In the order of the OpenAPI document."""
