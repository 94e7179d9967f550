"""Paths to the names of endpoints that metrics and logs use: few and fixed, whatever clients ask for. PURE."""

OTHER = "other"
"""What is no endpoint of ours."""

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
OPERATIONS = {CHAT: "chat", COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings"}
"""Their names in OpenTelemetry's conventions for generative AI, which know no others of ours."""

MODEL = "/v1/models/{model}"
UNLOGGED = {"/livez", "/readyz", "/health", "/metrics"}
"""Asked every few seconds by machines: no access lines."""

_BY_PATH = {
    **{name.removeprefix("/v1"): name for name in (*OPERATIONS, "/v1/models", "/v1/rerank")},
    **{name: name for name in (*OPERATIONS, "/v1/models", "/v1/rerank")},
    **{name: name for name in ("/tokenize", "/detokenize", "/apply-template", "/openapi.json", *UNLOGGED)},
}


def endpoint(path: str) -> str:
    """The name of the endpoint that `path` leads to; those with a model in the path are the ones without."""
    if name := _BY_PATH.get(path):
        return name
    if path.startswith(("/v1/models/", "/models/")):
        return MODEL
    for name in (CHAT, COMPLETIONS, EMBEDDINGS):  # in the order of the routes
        if path.endswith(name.removeprefix("/v1")):
            return name
    return OTHER
