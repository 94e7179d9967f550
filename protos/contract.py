"""The tensors, parameters and words of the wire contract, each named once.

Nobody else spells a tensor's name or datatype. `protos/README.md` carries the tables printed by `python -m
protos.contract`; a test compares the two.
"""

from dataclasses import dataclass

ANY = -1
"""A dimension of any size, as in `ModelMetadata`."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorSpec:
    """One tensor of the contract. There is one of each, so they are compared by identity.

    `shape` may hold `ANY`. `low` and `high` bound each element, both inclusive; `None` is unbounded.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    meaning: str
    low: float | None = None
    high: float | None = None

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            want in (ANY, have) for want, have in zip(self.shape, shape, strict=True)
        )


INT32_MAX = 2**31 - 1
MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
"""Tokens of one request whose logits may be biased."""
MAX_TOKEN_LIST = 1024
"""Stop tokens and the like."""

# ---- Inputs: one prompt (as text or as token ids) and how to sample from it. Everything but the prompt is optional.

PROMPT = TensorSpec(
    "prompt",
    "BYTES",
    (1,),
    "UTF-8 text; special tokens are recognised, BOS is added if the model wants one and it is absent",
)
PROMPT_TOKEN_IDS = TensorSpec(
    "prompt_token_ids", "INT32", (ANY,), "the prompt as token ids, used as they are, instead of `prompt`", 0
)
PLAIN_SPANS = TensorSpec(
    "plain_spans",
    "INT32",
    (ANY,),
    "pairs of byte offsets into `prompt`, start and end, ascending: what lies between is text and no special token",
    0,
)
MAX_TOKENS = TensorSpec(
    "max_tokens", "INT32", (1,), "most tokens to generate per choice; absent: until the context is full", 0
)
TEMPERATURE = TensorSpec("temperature", "FP32", (1,), "0 is greedy; absent: 1", 0, 100)
TOP_P = TensorSpec("top_p", "FP32", (1,), "nucleus: smallest set of tokens with this mass; absent: 1 (off)", 0, 1)
TOP_K = TensorSpec("top_k", "INT32", (1,), "the k likeliest tokens; 0 or absent: all", 0)
MIN_P = TensorSpec("min_p", "FP32", (1,), "least probability, relative to the likeliest token's; absent: 0 (off)", 0, 1)
PRESENCE_PENALTY = TensorSpec(
    "presence_penalty", "FP32", (1,), "subtracted once from the logit of each generated token; absent: 0", -2, 2
)
FREQUENCY_PENALTY = TensorSpec(
    "frequency_penalty", "FP32", (1,), "subtracted from a token's logit each time it was generated; absent: 0", -2, 2
)
REPETITION_PENALTY = TensorSpec(
    "repetition_penalty",
    "FP32",
    (1,),
    "divides positive logits of tokens in prompt and output, multiplies negative ones; absent: 1 (off)",
    0.01,
    10,
)
STOP = TensorSpec(
    "stop", "BYTES", (ANY,), f"up to {MAX_STOP_STRINGS} UTF-8 strings that end a choice; they are not part of its text"
)
TYPICAL_P = TensorSpec("typical_p", "FP32", (1,), "locally typical sampling: mass to keep; absent: 1 (off)", 0, 1)
TOP_N_SIGMA = TensorSpec(
    "top_n_sigma", "FP32", (1,), "keeps logits within so many standard deviations of the greatest; absent: 0 (off)", 0
)
REPEAT_LAST_N = TensorSpec(
    "repeat_last_n", "INT32", (1,), "tokens that the three penalties look back at; -1 or absent: all, 0: none", -1
)
XTC_PROBABILITY = TensorSpec(
    "xtc_probability", "FP32", (1,), "chance of excluding top choices at a token; absent: 0 (off)", 0, 1
)
XTC_THRESHOLD = TensorSpec(
    "xtc_threshold", "FP32", (1,), "of tokens at least this likely, all but the last are excluded; absent: 0.1", 0, 1
)
DRY_MULTIPLIER = TensorSpec(
    "dry_multiplier", "FP32", (1,), "strength of the penalty on repeated sequences; absent: 0 (off)", 0, 100
)
DRY_BASE = TensorSpec("dry_base", "FP32", (1,), "its growth a token; absent: 1.75", 1, 100)
DRY_ALLOWED_LENGTH = TensorSpec(
    "dry_allowed_length", "INT32", (1,), "tokens that may be repeated without it; absent: 2", 0
)
DRY_PENALTY_LAST_N = TensorSpec(
    "dry_penalty_last_n", "INT32", (1,), "tokens that it looks back at; -1 or absent: all, 0: none", -1
)
DRY_SEQUENCE_BREAKERS = TensorSpec(
    "dry_sequence_breakers",
    "BYTES",
    (ANY,),
    f'up to {MAX_STOP_STRINGS} strings, of up to 40 bytes, that end a sequence for it; absent: newline, `:`, `"`, `*`',
)
MIROSTAT = TensorSpec("mirostat", "INT32", (1,), "1 and 2: that version, instead of the truncations; absent: 0", 0, 2)
MIROSTAT_TAU = TensorSpec("mirostat_tau", "FP32", (1,), "its target surprise in bits; absent: 5", 0, 100)
MIROSTAT_ETA = TensorSpec("mirostat_eta", "FP32", (1,), "its learning rate; absent: 0.1", 0, 1)
LOGIT_BIAS_TOKEN_IDS = TensorSpec(
    "logit_bias_token_ids", "INT32", (ANY,), f"up to {MAX_LOGIT_BIAS} tokens whose logits are changed", 0
)
LOGIT_BIAS = TensorSpec("logit_bias", "FP32", (ANY,), "what is added to the logit of each of these", -100, 100)
MIN_TOKENS = TensorSpec(
    "min_tokens", "INT32", (1,), "tokens before which no end token and no stop token is sampled; absent: 0", 0
)
IGNORE_EOS = TensorSpec("ignore_eos", "BOOL", (1,), "no end token is sampled at all; absent: false")
STOP_TOKEN_IDS = TensorSpec(
    "stop_token_ids", "INT32", (ANY,), f"up to {MAX_TOKEN_LIST} tokens that end a choice, like the model's own", 0
)
SKIP_SPECIAL_TOKENS = TensorSpec(
    "skip_special_tokens", "BOOL", (1,), "control tokens are not part of the text; absent: true"
)
JSON_SCHEMA = TensorSpec(
    "json_schema", "BYTES", (1,), "JSON Schema that the text of each choice is valid against, as compact JSON"
)
LENIENT_SCHEMA = TensorSpec(
    "lenient_schema", "BOOL", (1,), "what of `json_schema` can't be enforced is left out; absent: false, it is an error"
)
REGEX = TensorSpec("regex", "BYTES", (1,), "regular expression that the whole text of each choice matches")
GRAMMAR = TensorSpec("grammar", "BYTES", (1,), "the same as a grammar in llama.cpp's GBNF, rule `root`")
LARK = TensorSpec("lark", "BYTES", (1,), "the same as a grammar in llguidance's Lark, rule `start`")
LOGPROBS = TensorSpec(
    "logprobs",
    "INT32",
    (1,),
    "log probabilities of the tokens, with those of so many likeliest; absent: none",
    0,
    MAX_LOGPROBS,
)
ECHO = TensorSpec(
    "echo", "BOOL", (1,), "each choice begins with the prompt, and so do its log probabilities; absent: false"
)
SUFFIX = TensorSpec(
    "suffix", "BYTES", (1,), "UTF-8 text that follows: the model fills in between `prompt` and it, if it can"
)
MARK_END = TensorSpec(
    "mark_end", "BYTES", (ANY,), f"1 to {MAX_STOP_STRINGS} UTF-8 strings; tokens until one of them came are counted"
)
MARK_BEGIN = TensorSpec("mark_begin", "BYTES", (1,), "with `mark_end`: only if the text begins with this, are they")
SEED = TensorSpec(
    "seed", "INT32", (1,), "of choice 0; choice i uses seed + i, in 32 bits; absent: random", -INT32_MAX - 1, INT32_MAX
)
N = TensorSpec("n", "INT32", (1,), "choices to generate from the one prompt; absent: 1", 1, MAX_CHOICES)
PRIORITY = TensorSpec(
    "priority", "INT32", (1,), "waiting prompts with a smaller number are read first; absent: 0, which is the first", 0
)

INPUTS: tuple[TensorSpec, ...] = (
    PROMPT,
    PROMPT_TOKEN_IDS,
    PLAIN_SPANS,
    MAX_TOKENS,
    TEMPERATURE,
    TOP_P,
    TOP_K,
    MIN_P,
    PRESENCE_PENALTY,
    FREQUENCY_PENALTY,
    REPETITION_PENALTY,
    REPEAT_LAST_N,
    TYPICAL_P,
    TOP_N_SIGMA,
    XTC_PROBABILITY,
    XTC_THRESHOLD,
    DRY_MULTIPLIER,
    DRY_BASE,
    DRY_ALLOWED_LENGTH,
    DRY_PENALTY_LAST_N,
    DRY_SEQUENCE_BREAKERS,
    MIROSTAT,
    MIROSTAT_TAU,
    MIROSTAT_ETA,
    LOGIT_BIAS_TOKEN_IDS,
    LOGIT_BIAS,
    STOP,
    STOP_TOKEN_IDS,
    MIN_TOKENS,
    IGNORE_EOS,
    SKIP_SPECIAL_TOKENS,
    JSON_SCHEMA,
    LENIENT_SCHEMA,
    REGEX,
    GRAMMAR,
    LARK,
    LOGPROBS,
    ECHO,
    SUFFIX,
    MARK_BEGIN,
    MARK_END,
    SEED,
    N,
    PRIORITY,
)

GUIDES: tuple[TensorSpec, ...] = (JSON_SCHEMA, REGEX, GRAMMAR, LARK)
"""At most one of them."""

# ---- Outputs. Unary answers hold every choice, in order; a stream response holds the k choices that moved.

TEXT = TensorSpec("text", "BYTES", (ANY,), "unary: the text of each choice")
TOKEN = TensorSpec(
    "token", "BYTES", (ANY,), "stream: the text that was added to each choice in this response, whole UTF-8 characters"
)
INDEX = TensorSpec("index", "INT32", (ANY,), "stream: which choice each element of `token` belongs to")
FINISH_REASON = TensorSpec(
    "finish_reason", "BYTES", (ANY,), "`stop`, `length`, or (stream) `null` for a choice that goes on"
)
MODEL = TensorSpec("model", "BYTES", (1,), "unary: name of the model that answered")
PROMPT_TOKENS = TensorSpec(
    "prompt_tokens", "INT32", (1,), "tokens in the prompt; in a stream with each response that finishes a choice"
)
CACHED_TOKENS = TensorSpec(
    "cached_tokens", "INT32", (1,), "of these, read from the KV cache by choice 0; sent with `prompt_tokens`"
)
COMPLETION_TOKENS = TensorSpec(
    "completion_tokens",
    "INT32",
    (ANY,),
    "tokens sampled for each choice, the end token included; sent with `prompt_tokens`",
)

MARKED_TOKENS = TensorSpec(
    "marked_tokens",
    "INT32",
    (ANY,),
    "if `mark_end` was given: of these, those until the first of its strings was complete, or all",
)
LOGPROB_INDEX = TensorSpec(
    "logprob_index", "INT32", (ANY,), "if `logprobs` was given: which choice each of the following tokens belongs to"
)
LOGPROB_TOKEN = TensorSpec(
    "logprob_token", "BYTES", (ANY,), "the tokens of the text, in order; one may end inside a character"
)
LOGPROB = TensorSpec(
    "logprob", "FP32", (ANY,), "ln p of each, before sampling changed it; NaN for the first token of a prompt"
)
TOP_LOGPROB_TOKEN = TensorSpec(
    "top_logprob_token", "BYTES", (ANY,), "of each of these tokens, the `logprobs` likeliest in its place"
)
TOP_LOGPROB = TensorSpec("top_logprob", "FP32", (ANY,), "ln p of each of those, greatest first; NaN as above")

LOGPROB_OUTPUTS: tuple[TensorSpec, ...] = (LOGPROB_INDEX, LOGPROB_TOKEN, LOGPROB, TOP_LOGPROB_TOKEN, TOP_LOGPROB)
UNARY_OUTPUTS: tuple[TensorSpec, ...] = (
    TEXT,
    FINISH_REASON,
    MODEL,
    PROMPT_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    MARKED_TOKENS,
    *LOGPROB_OUTPUTS,
)
STREAM_OUTPUTS: tuple[TensorSpec, ...] = (
    TOKEN,
    INDEX,
    FINISH_REASON,
    PROMPT_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    MARKED_TOKENS,
    *LOGPROB_OUTPUTS,
)
OUTPUTS: tuple[TensorSpec, ...] = tuple(dict.fromkeys(UNARY_OUTPUTS + STREAM_OUTPUTS))

# ---- Step batches: what a step of the engine added to all of a stream's requests that want it in this form. Each of
# these tensors has one element a row; a row is one choice of one request.

REQUEST = TensorSpec("request", "INT32", (ANY,), "number of the request that the row belongs to", 0)
ROW_TOKEN = TensorSpec("token", "BYTES", (ANY,), "the text that was added to the choice, whole UTF-8 characters")
ROW_INDEX = TensorSpec("index", "INT32", (ANY,), "which choice of the request it is", 0)
ROW_FINISH_REASON = TensorSpec(
    "finish_reason", "BYTES", (ANY,), "as in a stream; there, like those below, if one of the rows ends its choice"
)
ROW_PROMPT_TOKENS = TensorSpec("prompt_tokens", "INT32", (ANY,), "tokens in the prompt of the request")
ROW_CACHED_TOKENS = TensorSpec("cached_tokens", "INT32", (ANY,), "of these, read from the KV cache by choice 0")
ROW_COMPLETION_TOKENS = TensorSpec("completion_tokens", "INT32", (ANY,), "tokens sampled for the choice until now")
ROW_MARKED_TOKENS = TensorSpec(
    "marked_tokens", "INT32", (ANY,), "of these, as in a stream; -1 for a request without `mark_end`; absent if all are"
)

STEP_BATCH: tuple[TensorSpec, ...] = (
    REQUEST,
    ROW_TOKEN,
    ROW_INDEX,
    ROW_FINISH_REASON,
    ROW_PROMPT_TOKENS,
    ROW_CACHED_TOKENS,
    ROW_COMPLETION_TOKENS,
    ROW_MARKED_TOKENS,
)

EXTENSION_STEP_BATCHES = "anyserve_step_batches"
"""In ServerMetadata.extensions: the server knows PARAM_REQUEST and PARAM_CANCEL."""
EXTENSION_PINGS = "anyserve_pings"
"""The same: it may be pinged once a second, whether it has something to do or not."""
EXTENSION_WHOLE_ANSWERS = "anyserve_whole_rows"
"""The same: the server knows PARAM_WHOLE."""
EXTENSION_BUNDLES = "anyserve_bundles"
"""The same: the server knows PARAM_BUNDLE."""
EXTENSIONS = (EXTENSION_STEP_BATCHES, EXTENSION_PINGS, EXTENSION_WHOLE_ANSWERS, EXTENSION_BUNDLES)

NOT_FINISHED = "null"
FINISH_STOP = "stop"
FINISH_LENGTH = "length"

# ---- Other tasks than to generate: unary calls whose parameter PARAM_TASK says which.

TASK_GENERATE = "generate"
TASK_EMBED = "embed"
TASK_RANK = "rank"
TASK_TOKENIZE = "tokenize"
TASK_DETOKENIZE = "detokenize"

POOLING_MEAN = "mean"
POOLING_CLS = "cls"
POOLING_LAST = "last"
POOLINGS = (POOLING_MEAN, POOLING_CLS, POOLING_LAST)

POOLING = TensorSpec(
    "pooling",
    "BYTES",
    (1,),
    "how the vectors of all tokens become one: `mean`, `cls` (the first), `last`; absent: the model's own way",
)
NORMALIZE = TensorSpec("normalize", "BOOL", (1,), "whether the embedding gets the length 1; absent: true")
DIMENSIONS = TensorSpec(
    "dimensions",
    "INT32",
    (1,),
    "so many of the embedding's first elements are kept, before it is normalized; absent: all",
    1,
)
QUERY = TensorSpec("prompt", "BYTES", (1,), "the query, as UTF-8 text")
DOCUMENT = TensorSpec("document", "BYTES", (1,), "the document, as UTF-8 text")
TEXT_TO_TOKENIZE = TensorSpec("prompt", "BYTES", (1,), "UTF-8 text")
ADD_SPECIAL = TensorSpec(
    "add_special", "BOOL", (1,), "whether the model's own tokens of beginning and end are added; absent: false"
)
PARSE_SPECIAL = TensorSpec("parse_special", "BOOL", (1,), "whether special tokens are recognised; absent: true")
TOKENS_TO_TEXT = TensorSpec("prompt_token_ids", "INT32", (ANY,), "the tokens; there may be none", 0)

EMBEDDING = TensorSpec("embedding", "FP32", (ANY,), "the vector")
SCORE = TensorSpec(
    "score", "FP32", (1,), "how well the document answers the query; more is better, models differ in scale"
)
TOKEN_IDS = TensorSpec("token_ids", "INT32", (ANY,), "the tokens")
TOKEN_PIECES = TensorSpec(
    "token_pieces", "BYTES", (ANY,), "what each token stands for; may end inside a UTF-8 character"
)
WHOLE_TEXT = TensorSpec("text", "BYTES", (1,), "the text of the tokens, special ones included")


@dataclass(frozen=True, slots=True)
class Task:
    """What a task takes, and what it answers."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


TASKS: dict[str, Task] = {
    TASK_GENERATE: Task(INPUTS, UNARY_OUTPUTS),
    TASK_EMBED: Task((PROMPT, PROMPT_TOKEN_IDS, POOLING, NORMALIZE, DIMENSIONS, PRIORITY), (EMBEDDING, PROMPT_TOKENS)),
    TASK_RANK: Task((QUERY, DOCUMENT, PRIORITY), (SCORE, PROMPT_TOKENS)),
    TASK_TOKENIZE: Task((TEXT_TO_TOKENIZE, PLAIN_SPANS, ADD_SPECIAL, PARSE_SPECIAL), (TOKEN_IDS, TOKEN_PIECES)),
    TASK_DETOKENIZE: Task((TOKENS_TO_TEXT,), (WHOLE_TEXT,)),
}

# ---- AnyServe's addressing: the capability is the model name, the engine is the version.

ANYSERVE_VERSION = "llamacpp"
ANYSERVE_GENERATE = "generate"
ANYSERVE_GENERATE_STREAM = "generate_stream"
ANYSERVE_MODEL_INFO = "model_info"
ANYSERVE_CAPABILITIES = (*TASKS, ANYSERVE_GENERATE_STREAM, ANYSERVE_MODEL_INFO)
"""The other tasks are capabilities under their own names."""
MODEL_NAME = TensorSpec("model_name", "BYTES", (1,), "`model_info`: the served model")
N_CTX = TensorSpec("n_ctx", "INT32", (1,), "`model_info`: its context length in tokens")
STEP_KIND = TensorSpec(
    "step_kind",
    "BYTES",
    (ANY,),
    "`model_info`: `decode` or `prefill` (with prompts in it), for each kind of step so far",
)
STEP_TOKENS = TensorSpec(
    "step_tokens", "INT32", (ANY,), "`model_info`: tokens of such a step, from this many to twice as many"
)
STEP_THREADS = TensorSpec("step_threads", "INT32", (ANY,), "`model_info`: the threads that such steps get now")
MODEL_INFO_OUTPUTS: tuple[TensorSpec, ...] = (MODEL_NAME, N_CTX, STEP_KIND, STEP_TOKENS, STEP_THREADS)

# ---- Request and response parameters (Triton's).

PARAM_TIMEOUT = "timeout"
"""int64, microseconds: the request fails with DEADLINE_EXCEEDED when they have passed; 0 is no limit."""
PARAM_CALLER = "anyserve_caller"
"""string of at most MAX_CALLER characters: whose request it is. Callers share the server fairly. Our own."""
MAX_CALLER = 256
PARAM_TASK = "task"
"""string, unary request: what to do, one of TASKS; absent: generate. Our own."""
PARAM_EMPTY_FINAL = "triton_enable_empty_final_response"
"""bool, request: the final flag comes on a response of its own, without outputs."""
PARAM_FINAL = "triton_final_response"
"""bool, stream response: nothing more follows for this request id."""

# ---- Parameters of step batches (our own).

PARAM_REQUEST = "anyserve_request"
"""int64, stream request: its answer comes in step batches, under this number of 0…2³¹-1. Its error says it again."""
PARAM_WHOLE = "anyserve_whole"
"""bool, stream request with PARAM_REQUEST: its rows come together, when its last choice has ended."""
PARAM_BUNDLE = "anyserve_bundle"
"""bool, stream request without anything else: each of `raw_input_contents` is a serialised request of the stream."""
MAX_BUNDLE = 256
"""Requests in one bundle."""
PARAM_CANCEL = "anyserve_cancel"
"""int64, stream request without anything else: the request with this number is given up."""

# ---- Whom a request is for, for logs and traces: metadata of the call, or of a request on a shared stream a parameter.

METADATA_REQUEST_ID = "x-request-id"
"""What the HTTP client calls its request."""
METADATA_TRACEPARENT = "traceparent"
"""The span of W3C's trace context that the request belongs to."""
METADATA_TRACESTATE = "tracestate"
"""What tracing systems know of that trace, passed on as it is; never without METADATA_TRACEPARENT."""
HEADER_PARAMETERS = {
    METADATA_REQUEST_ID: "anyserve_request_id",
    METADATA_TRACEPARENT: "anyserve_traceparent",
    METADATA_TRACESTATE: "anyserve_tracestate",
}
"""String parameters of a request with PARAM_REQUEST. They have no effect on its answer."""

# ---- What an error says beside its status and message. Unary: trailing metadata. Stream: parameters of infer_response.

ERROR_STATUS = "error_status"
"""Stream only: the name of the gRPC status code that a unary call would have got."""
ERROR_REASON = "error_reason"
"""A word for programs, one of the REASON_ constants."""
ERROR_TENSOR = "error_tensor"
"""The input tensor to blame."""
ERROR_PART = "error_part"
"""The part of a guide to blame, by the name that the guide gives it (PART_COMMENT)."""
ERROR_CONTEXT_LENGTH = "error_context_length"
"""With REASON_CONTEXT_LENGTH: the tokens that the context has room for."""
ERROR_PROMPT_TOKENS = "error_prompt_tokens"
"""With REASON_CONTEXT_LENGTH: the tokens of the prompt; `>` in front if it has more, which were not counted."""

PART_COMMENT = "// part: "
"""Begins a line in front of a rule of a `lark` grammar; the rest of that line is the name of the rule's part."""

REASON_CONTEXT_LENGTH = "context_length_exceeded"
REASON_QUEUE_FULL = "queue_full"
REASON_DRAINING = "draining"

# ---- ModelConfig.parameters: what the sidecar learns of a model. All are strings; absent means unknown.

CONFIG_PARAMETERS: dict[str, str] = {
    "chat_template": "Jinja source of the chat template",
    "chat_template_tool_use": "the same for requests with tools, of a model that has one of its own for them",
    "bos_token": "text of the begin-of-sequence token",
    "eos_token": "text of the end-of-sequence token",
    "control_tokens": "JSON array: texts of the control tokens, which are read in a prompt and nowhere else",
    "user_defined_tokens": "JSON array: texts of the tokens that are read in any text, without those of whitespace; at "
    "most 256 KiB, those of the chat templates first",
    "context_length": "most tokens of one sequence, prompt and completion together",
    "vocab_size": "number of tokens in the vocabulary",
    "architecture": "GGUF `general.architecture`",
    "description": "architecture, size and quantization in one line",
    "loaded_at": "Unix time, in seconds, at which the model became ready",
    "tasks": "what the model can do, separated by commas: `generate`, `embed`, `rank`, `tokenize`, `detokenize`; "
    "absent: `generate`",
    "pooling": "how it makes one vector of all tokens if the request does not say: `mean`, `cls`, `last`",
    "embedding_length": "elements of an embedding",
    "context_length_trained": "longest sequence that the model was trained with",
    "parameter_count": "number of weights",
    "size": "bytes of the weights",
}


def _tensor_table(specs: tuple[TensorSpec, ...]) -> str:
    def bounds(spec: TensorSpec) -> str:
        if spec.low is None and spec.high is None:
            return ""
        low = "" if spec.low is None else f"{spec.low:g}" if abs(spec.low) < INT32_MAX else "-2³¹"
        high = "" if spec.high is None else f"{spec.high:g}" if spec.high < INT32_MAX else "2³¹-1"
        return f"{low}…{high}"

    rows = ["| tensor | datatype | shape | range | meaning |", "|---|---|---|---|---|"]
    for spec in specs:
        shape = ", ".join("-1" if d == ANY else str(d) for d in spec.shape)
        rows.append(f"| `{spec.name}` | {spec.datatype} | [{shape}] | {bounds(spec)} | {spec.meaning} |")
    return "\n".join(rows)


def markdown() -> str:
    """The tables of `protos/README.md`."""
    parameters = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in CONFIG_PARAMETERS.items())
    tasks = "".join(
        f"### Task `{name}`: inputs\n\n{_tensor_table(task.inputs)}\n\n"
        f"### Task `{name}`: outputs\n\n{_tensor_table(task.outputs)}\n\n"
        for name, task in TASKS.items()
        if name != TASK_GENERATE
    )
    return (
        f"### Inputs\n\n{_tensor_table(INPUTS)}\n\n### Outputs\n\n{_tensor_table(OUTPUTS)}\n\n"
        f"### Step batches\n\n{_tensor_table(STEP_BATCH)}\n\n"
        f"{tasks}"
        f"### `model_info` outputs\n\n{_tensor_table(MODEL_INFO_OUTPUTS)}\n\n"
        f"### `ModelConfig.parameters`\n\n| parameter | meaning |\n|---|---|\n{parameters}\n"
    )


if __name__ == "__main__":
    print(markdown(), end="")
