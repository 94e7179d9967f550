"""The tensors, parameters and words of the wire contract, each named once.

No other module spells a tensor's name or datatype. `protos/README.md` carries the tables that `python -m
protos.contract` prints; a test compares the two.
"""

from dataclasses import dataclass

ANY = -1
"""A dimension of any size, as in `ModelMetadata`."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorSpec:
    """One tensor of the contract. Each has a single instance, so they are compared by identity.

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
URGENT_PRIORITY = -1
"""Priority of requests that are read before all others."""
BACKGROUND_PRIORITY = 2**30
"""Requests of this priority or a greater number are background work: it is done while nothing else is to do, or costs
other requests next to nothing, besides a small minimum share."""
FLEX_PRIORITY = BACKGROUND_PRIORITY
BATCH_PRIORITY = INT32_MAX
"""Priorities of background work: requests whose clients wait, and lines of batches."""
MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
"""Maximum tokens of a request with a biased logit."""
MAX_TOKEN_LIST = 1024
"""Maximum token ids in an input such as `stop_token_ids`."""

# ---- Inputs: one prompt (as text or as token ids) and how to sample from it. Everything but the prompt is optional.

PROMPT = TensorSpec(
    "prompt",
    "BYTES",
    (1,),
    "UTF-8 text; special tokens are recognized, and a missing BOS is added if the model needs one",
)
PROMPT_TOKEN_IDS = TensorSpec(
    "prompt_token_ids", "INT32", (ANY,), "the prompt as token ids, used as they are, instead of `prompt`", 0
)
PLAIN_SPANS = TensorSpec(
    "plain_spans",
    "INT32",
    (ANY,),
    "pairs of byte offsets into `prompt`, start and end, ascending: no special tokens are read between them",
    0,
)
MAX_TOKENS = TensorSpec(
    "max_tokens", "INT32", (1,), "maximum tokens to generate per choice; absent: until the context is full", 0
)
TEMPERATURE = TensorSpec("temperature", "FP32", (1,), "0 is greedy; absent: 1", 0, 100)
TOP_P = TensorSpec("top_p", "FP32", (1,), "nucleus: smallest set of tokens with this mass; absent: 1 (off)", 0, 1)
TOP_K = TensorSpec("top_k", "INT32", (1,), "the k likeliest tokens; 0 or absent: all", 0)
MIN_P = TensorSpec(
    "min_p", "FP32", (1,), "minimum probability relative to the likeliest token's; absent: 0 (off)", 0, 1
)
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
    "stop",
    "BYTES",
    (ANY,),
    f"up to {MAX_STOP_STRINGS} UTF-8 strings that end a choice; its text includes them only with `include_stop`",
)
INCLUDE_STOP = TensorSpec(
    "include_stop", "BOOL", (1,), "whether a text that a stop string ended includes that string; absent: false"
)
TYPICAL_P = TensorSpec("typical_p", "FP32", (1,), "locally typical sampling: mass to keep; absent: 1 (off)", 0, 1)
TOP_N_SIGMA = TensorSpec(
    "top_n_sigma", "FP32", (1,), "keeps logits within this many standard deviations of the greatest; absent: 0 (off)", 0
)
REPEAT_LAST_N = TensorSpec(
    "repeat_last_n", "INT32", (1,), "tokens that the three penalties look back at; -1 or absent: all, 0: none", -1
)
XTC_PROBABILITY = TensorSpec(
    "xtc_probability", "FP32", (1,), "probability of excluding the top choices at a token; absent: 0 (off)", 0, 1
)
XTC_THRESHOLD = TensorSpec(
    "xtc_threshold",
    "FP32",
    (1,),
    "excludes all tokens at least this likely but the least likely one; absent: 0.1",
    0,
    1,
)
DRY_MULTIPLIER = TensorSpec(
    "dry_multiplier", "FP32", (1,), "strength of the penalty on repeated sequences; absent: 0 (off)", 0, 100
)
DRY_BASE = TensorSpec("dry_base", "FP32", (1,), "growth of the DRY penalty per token; absent: 1.75", 1, 100)
DRY_ALLOWED_LENGTH = TensorSpec(
    "dry_allowed_length", "INT32", (1,), "tokens that may be repeated without a DRY penalty; absent: 2", 0
)
DRY_PENALTY_LAST_N = TensorSpec(
    "dry_penalty_last_n", "INT32", (1,), "tokens that the DRY penalty looks back at; -1 or absent: all, 0: none", -1
)
DRY_SEQUENCE_BREAKERS = TensorSpec(
    "dry_sequence_breakers",
    "BYTES",
    (ANY,),
    f'up to {MAX_STOP_STRINGS} strings of up to 40 bytes where repeated sequences end; absent: newline, `:`, `"`, `*`',
)
MIROSTAT = TensorSpec(
    "mirostat", "INT32", (1,), "version of Mirostat, which replaces the truncations; 0 or absent: off", 0, 2
)
MIROSTAT_TAU = TensorSpec("mirostat_tau", "FP32", (1,), "Mirostat's target surprise in bits; absent: 5", 0, 100)
MIROSTAT_ETA = TensorSpec("mirostat_eta", "FP32", (1,), "Mirostat's learning rate; absent: 0.1", 0, 1)
LOGIT_BIAS_TOKEN_IDS = TensorSpec(
    "logit_bias_token_ids", "INT32", (ANY,), f"up to {MAX_LOGIT_BIAS} tokens whose logits are changed", 0
)
LOGIT_BIAS = TensorSpec(
    "logit_bias", "FP32", (ANY,), "added to the logit of each token in `logit_bias_token_ids`", -100, 100
)
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
    "json_schema", "BYTES", (1,), "JSON Schema that the text of each choice follows, as compact JSON"
)
LENIENT_SCHEMA = TensorSpec(
    "lenient_schema",
    "BOOL",
    (1,),
    "whether to ignore what can't be enforced in `json_schema`; absent: false (an error)",
)
REGEX = TensorSpec("regex", "BYTES", (1,), "regular expression that the whole text of each choice must match")
GRAMMAR = TensorSpec("grammar", "BYTES", (1,), "grammar for the whole text, in llama.cpp's GBNF, rule `root`")
LARK = TensorSpec("lark", "BYTES", (1,), "grammar for the whole text, in llguidance's Lark, rule `start`")
LOGPROBS = TensorSpec(
    "logprobs",
    "INT32",
    (1,),
    "return log probabilities of the tokens, and of this many likeliest alternatives; absent: none",
    0,
    MAX_LOGPROBS,
)
ECHO = TensorSpec(
    "echo", "BOOL", (1,), "whether each choice, with its log probabilities, begins with the prompt; absent: false"
)
SUFFIX = TensorSpec(
    "suffix", "BYTES", (1,), "UTF-8 text after the answer: a model with infill tokens fills in between `prompt` and it"
)
MARK_END = TensorSpec(
    "mark_end",
    "BYTES",
    (ANY,),
    f"1 to {MAX_STOP_STRINGS} UTF-8 strings; the tokens up to the first of them are counted",
)
MARK_BEGIN = TensorSpec("mark_begin", "BYTES", (1,), "count with `mark_end` only if the text begins with this")
MAX_MARKED_TOKENS = TensorSpec(
    "max_marked_tokens",
    "INT32",
    (1,),
    "tokens after `mark_begin` before the server itself writes the first string of `mark_end`, unless the model has "
    "written one of them; absent: no limit",
    0,
)
SEED = TensorSpec(
    "seed",
    "INT32",
    (1,),
    "seed of choice 0; choice i uses seed + i, in 32 bits; absent: random",
    -INT32_MAX - 1,
    INT32_MAX,
)
N = TensorSpec("n", "INT32", (1,), "choices to generate from the prompt; absent: 1", 1, MAX_CHOICES)
PRIORITY = TensorSpec(
    "priority",
    "INT32",
    (1,),
    "waiting prompts with a smaller number are read first; from 2³⁰ on, the request is background work; absent: 0",
    -1,
)
TIMINGS = TensorSpec(
    "timings", "BOOL", (1,), "whether to return `prompt_ms` and `completion_ms`; absent: false; not in step batches"
)
PROMPT_PROGRESS = TensorSpec(
    "prompt_progress",
    "BOOL",
    (1,),
    "stream: whether to return `progress_tokens` and `progress_ms`; absent: false; not in step batches",
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
    INCLUDE_STOP,
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
    MAX_MARKED_TOKENS,
    SEED,
    N,
    PRIORITY,
    TIMINGS,
    PROMPT_PROGRESS,
)

GUIDES: tuple[TensorSpec, ...] = (JSON_SCHEMA, REGEX, GRAMMAR, LARK)
"""A request has at most one of them."""

# ---- Outputs. Unary answers hold every choice, in order; a stream response holds the k choices that moved.

TEXT = TensorSpec("text", "BYTES", (ANY,), "unary: the text of each choice")
TOKEN = TensorSpec(
    "token", "BYTES", (ANY,), "stream: the text added to each choice in this response, in whole UTF-8 characters"
)
INDEX = TensorSpec("index", "INT32", (ANY,), "stream: the choice that each element of `token` belongs to")
FINISH_REASON = TensorSpec(
    "finish_reason", "BYTES", (ANY,), "`stop`, `length`, or (stream) `null` for a choice that goes on"
)
MODEL = TensorSpec("model", "BYTES", (1,), "unary: name of the model that answered")
PROMPT_TOKENS = TensorSpec(
    "prompt_tokens",
    "INT32",
    (1,),
    "tokens in the prompt; in a stream, sent with each response that begins or finishes a choice",
)
CACHED_TOKENS = TensorSpec(
    "cached_tokens", "INT32", (1,), "prompt tokens that choice 0 took from the KV cache; sent with `prompt_tokens`"
)
COMPLETION_TOKENS = TensorSpec(
    "completion_tokens",
    "INT32",
    (ANY,),
    "tokens sampled for each choice, the end token included; in a stream, sent with each response that finishes one",
)

MARKED_TOKENS = TensorSpec(
    "marked_tokens",
    "INT32",
    (ANY,),
    "with `mark_end`: completion tokens up to the first of its strings, or all of them",
)
LOGPROB_INDEX = TensorSpec(
    "logprob_index", "INT32", (ANY,), "with `logprobs`: the choice that each element of `logprob_token` belongs to"
)
LOGPROB_TOKEN = TensorSpec(
    "logprob_token", "BYTES", (ANY,), "the tokens of the text, in order; one may end inside a character"
)
LOGPROB = TensorSpec(
    "logprob", "FP32", (ANY,), "ln p of each token, before sampling changes it; NaN for the first token of a prompt"
)
TOP_LOGPROB_TOKEN = TensorSpec(
    "top_logprob_token",
    "BYTES",
    (ANY,),
    "for each element of `logprob_token`, the `logprobs` likeliest tokens in its place",
)
TOP_LOGPROB = TensorSpec("top_logprob", "FP32", (ANY,), "ln p of each of these, greatest first; NaN as in `logprob`")

PROMPT_MS = TensorSpec(
    "prompt_ms",
    "FP32",
    (1,),
    "with `timings`: milliseconds from the start of the request's first step to its first token; in a stream, sent "
    "with each response that has `token`, like all counts",
)
COMPLETION_MS = TensorSpec(
    "completion_ms",
    "FP32",
    (1,),
    "with `timings`: milliseconds from the request's first token to the last one so far; sent with `prompt_ms`",
)
PROGRESS_TOKENS = TensorSpec(
    "progress_tokens",
    "INT32",
    (ANY,),
    "with `prompt_progress`: tokens of the prompt from the cache, and then those that each step had completed",
)
PROGRESS_MS = TensorSpec(
    "progress_ms",
    "FP32",
    (ANY,),
    "milliseconds since the start of the request's first step, for each element of `progress_tokens`",
)

LOGPROB_OUTPUTS: tuple[TensorSpec, ...] = (LOGPROB_INDEX, LOGPROB_TOKEN, LOGPROB, TOP_LOGPROB_TOKEN, TOP_LOGPROB)
UNARY_OUTPUTS: tuple[TensorSpec, ...] = (
    TEXT,
    FINISH_REASON,
    MODEL,
    PROMPT_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    MARKED_TOKENS,
    PROMPT_MS,
    COMPLETION_MS,
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
    PROMPT_MS,
    COMPLETION_MS,
    *LOGPROB_OUTPUTS,
    PROGRESS_TOKENS,
    PROGRESS_MS,
)
OUTPUTS: tuple[TensorSpec, ...] = tuple(dict.fromkeys(UNARY_OUTPUTS + STREAM_OUTPUTS))

# ---- Step batches: what a step of the engine added to all requests of a stream with PARAM_REQUEST. Each of these
# tensors has one element per row; a row is one choice of one request.

REQUEST = TensorSpec("request", "INT32", (ANY,), "number of the request that the row belongs to", 0)
ROW_TOKEN = TensorSpec("token", "BYTES", (ANY,), "the text added to the choice, in whole UTF-8 characters")
ROW_INDEX = TensorSpec("index", "INT32", (ANY,), "the choice of the request", 0)
ROW_FINISH_REASON = TensorSpec(
    "finish_reason",
    "BYTES",
    (ANY,),
    "as in a stream; all tensors of this table are sent if one of the rows ends its choice",
)
ROW_PROMPT_TOKENS = TensorSpec(
    "prompt_tokens",
    "INT32",
    (ANY,),
    "tokens in the prompt of the request; this and `cached_tokens` are also sent if one of the rows begins its choice",
)
ROW_CACHED_TOKENS = TensorSpec("cached_tokens", "INT32", (ANY,), "prompt tokens that choice 0 took from the KV cache")
ROW_COMPLETION_TOKENS = TensorSpec("completion_tokens", "INT32", (ANY,), "tokens sampled for the choice so far")
ROW_MARKED_TOKENS = TensorSpec(
    "marked_tokens", "INT32", (ANY,), "as in a stream; -1: the request has no `mark_end`; absent: none has"
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

NOT_IN_STEP_BATCHES: tuple[TensorSpec, ...] = (LOGPROBS, TIMINGS, PROMPT_PROGRESS)
"""Inputs that a request with PARAM_REQUEST can't have."""

EXTENSION_STEP_BATCHES = "anyserve_step_batches"
"""In ServerMetadata.extensions: the server supports PARAM_REQUEST and PARAM_CANCEL."""
EXTENSION_PINGS = "anyserve_pings"
"""In ServerMetadata.extensions: clients may ping once a second, with and without calls."""
EXTENSION_WHOLE_ANSWERS = "anyserve_whole_rows"
"""In ServerMetadata.extensions: the server supports PARAM_WHOLE."""
EXTENSION_BUNDLES = "anyserve_bundles"
"""In ServerMetadata.extensions: the server supports PARAM_BUNDLE."""
EXTENSION_LOAD = "anyserve_load"
"""In ServerMetadata.extensions: `model_info` returns LOAD_OUTPUTS."""
EXTENSIONS = (
    EXTENSION_STEP_BATCHES,
    EXTENSION_PINGS,
    EXTENSION_WHOLE_ANSWERS,
    EXTENSION_BUNDLES,
    EXTENSION_LOAD,
)

NOT_FINISHED = "null"
FINISH_STOP = "stop"
FINISH_LENGTH = "length"
FINISH_TOOL_CALLS = "tool_calls"
FINISH_CONTENT_FILTER = "content_filter"

# ---- Tasks other than generation. A request names its task in PARAM_TASK.

TASK_GENERATE = "generate"
TASK_CHAT = "chat"
TASK_RESPONSES = "responses"
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
    "how the tokens' vectors are combined into one: `mean`, `cls` (the first), `last`; absent: the model's own",
)
NORMALIZE = TensorSpec("normalize", "BOOL", (1,), "whether to scale the embedding to length 1; absent: true")
DIMENSIONS = TensorSpec(
    "dimensions",
    "INT32",
    (1,),
    "elements to keep, from the first, before the embedding is normalized; absent: all",
    1,
)
QUERY = TensorSpec("prompt", "BYTES", (1,), "the query, as UTF-8 text")
DOCUMENT = TensorSpec("document", "BYTES", (1,), "the document, as UTF-8 text")
TEXT_TO_TOKENIZE = TensorSpec("prompt", "BYTES", (1,), "UTF-8 text")
ADD_SPECIAL = TensorSpec("add_special", "BOOL", (1,), "whether to add the model's begin and end tokens; absent: false")
PARSE_SPECIAL = TensorSpec("parse_special", "BOOL", (1,), "whether to recognize special tokens; absent: true")
TOKENS_TO_TEXT = TensorSpec("prompt_token_ids", "INT32", (ANY,), "the tokens, possibly none", 0)

EMBEDDING = TensorSpec("embedding", "FP32", (ANY,), "the vector")
SCORE = TensorSpec(
    "score", "FP32", (1,), "how well the document answers the query: higher is better; the scale is the model's"
)
TOKEN_IDS = TensorSpec("token_ids", "INT32", (ANY,), "the tokens")
TOKEN_PIECES = TensorSpec(
    "token_pieces", "BYTES", (ANY,), "the bytes of each token, which may end inside a UTF-8 character"
)
WHOLE_TEXT = TensorSpec("text", "BYTES", (1,), "the text of the tokens, special ones included")

# ---- Chats: the model gets the conversation instead of a rendered prompt, and returns text or events.

MESSAGES = TensorSpec(
    "messages",
    "BYTES",
    (ANY,),
    "the messages of OpenAI's chat: one JSON array, or a JSON object in each element",
)
BODY = TensorSpec(
    "body",
    "BYTES",
    (1,),
    "the whole request as a JSON object in the form of OpenAI's chat, without credentials; absent: only `messages`",
)
INPUT_ITEMS = TensorSpec(
    "input_items", "BYTES", (1,), "the conversation as a JSON array of input items, as in OpenAI's Responses API"
)
EVENTS = TensorSpec(
    "events",
    "BYTES",
    (ANY,),
    "what happened in the answer, in order, as [JSON objects](#events); such a response has no text",
)

EVENT_TEXT = "text"
EVENT_REASONING = "reasoning"
EVENT_REFUSAL = "refusal"
EVENT_TOOL_CALL = "tool_call"
EVENT_ARGUMENTS = "arguments"
EVENT_USAGE = "usage"
EVENT_FINISH = "finish"
EVENT_FIELDS: dict[str, dict[str, str]] = {
    EVENT_TEXT: {"text": "string: text of the answer, after the text before it"},
    EVENT_REASONING: {"text": "string: text of the model's reasoning"},
    EVENT_REFUSAL: {"text": "string: text in which the model declines to answer"},
    EVENT_TOOL_CALL: {
        "name": "string: the function or custom tool that is called; the calls of a choice are counted from 0",
        "id": "string, optional: absent, the sidecar creates an id",
    },
    EVENT_ARGUMENTS: {
        "text": "string: the next piece of the arguments, in JSON, or of a custom tool's input",
        "call": "integer, optional: number of the call; absent: the last one",
    },
    EVENT_USAGE: {
        "prompt_tokens": "integer: tokens of the prompt; the last usage of an answer counts, for all choices together",
        "completion_tokens": "integer: generated tokens",
        "cached_tokens": "integer, optional: tokens of the prompt that were cached",
        "reasoning_tokens": "integer, optional: completion tokens that were reasoning",
    },
    EVENT_FINISH: {
        "reason": f"string: `{FINISH_STOP}`, `{FINISH_LENGTH}`, `{FINISH_TOOL_CALLS}` or `{FINISH_CONTENT_FILTER}`; "
        "nothing follows for this choice",
    },
}
"""Kind of an event (its `type`) → its other fields and their meaning. Each but `usage` may have an integer `choice`,
which is 0 if absent."""


@dataclass(frozen=True, slots=True)
class Task:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


CHAT_OUTPUTS: tuple[TensorSpec, ...] = (
    EVENTS,
    TEXT,
    TOKEN,
    INDEX,
    FINISH_REASON,
    PROMPT_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
)
"""Outputs of whole answers and of streams; `token` and `index` are only in streams."""

TASKS: dict[str, Task] = {
    TASK_GENERATE: Task(INPUTS, UNARY_OUTPUTS),
    TASK_CHAT: Task((MESSAGES, BODY), CHAT_OUTPUTS),
    TASK_RESPONSES: Task((MESSAGES, BODY, INPUT_ITEMS), CHAT_OUTPUTS),
    TASK_EMBED: Task((PROMPT, PROMPT_TOKEN_IDS, POOLING, NORMALIZE, DIMENSIONS, PRIORITY), (EMBEDDING, PROMPT_TOKENS)),
    TASK_RANK: Task((QUERY, DOCUMENT, PRIORITY), (SCORE, PROMPT_TOKENS)),
    TASK_TOKENIZE: Task((TEXT_TO_TOKENIZE, PLAIN_SPANS, ADD_SPECIAL, PARSE_SPECIAL), (TOKEN_IDS, TOKEN_PIECES)),
    TASK_DETOKENIZE: Task((TOKENS_TO_TEXT,), (WHOLE_TEXT,)),
}
STREAMED_TASKS = (TASK_GENERATE, TASK_CHAT, TASK_RESPONSES)
"""Tasks of ModelStreamInfer."""

# ---- AnyServe's addressing: the capability is the model name, the engine is the version.

ANYSERVE_VERSION = "llamacpp"
ANYSERVE_GENERATE = "generate"
ANYSERVE_GENERATE_STREAM = "generate_stream"
ANYSERVE_MODEL_INFO = "model_info"
ANYSERVE_CAPABILITIES = (*TASKS, ANYSERVE_GENERATE_STREAM, ANYSERVE_MODEL_INFO)
"""Model names that address a capability: every task by its name, and these."""
MODEL_NAME = TensorSpec("model_name", "BYTES", (1,), "`model_info`: the served model")
N_CTX = TensorSpec("n_ctx", "INT32", (1,), "`model_info`: the model's context length in tokens")
STEP_KIND = TensorSpec(
    "step_kind",
    "BYTES",
    (ANY,),
    "`model_info`: `decode`, or `prefill` (with prompts), for each kind of step so far",
)
STEP_TOKENS = TensorSpec(
    "step_tokens", "INT32", (ANY,), "`model_info`: minimum tokens of such a step; it has less than twice as many"
)
STEP_THREADS = TensorSpec("step_threads", "INT32", (ANY,), "`model_info`: threads that such steps currently use")
SEQUENCES_WAITING = TensorSpec(
    "sequences_waiting",
    "INT32",
    (1,),
    "`model_info`: sequences of all models that wait: for a slot in the batch, for their guide, or to be embedded",
    0,
)
SEQUENCES_RUNNING = TensorSpec(
    "sequences_running",
    "INT32",
    (1,),
    "`model_info`: sequences of all models in the batch; also prompts being embedded",
    0,
)
KV_CELLS = TensorSpec("kv_cells", "INT32", (1,), "`model_info`: KV cells of all models; a cell holds one token", 0)
KV_CELLS_RUNNING = TensorSpec(
    "kv_cells_running",
    "INT32",
    (1,),
    "`model_info`: KV cells of running sequences; a shared one counts once, one that only a cached prefix uses doesn't",
    0,
)
LOAD_OUTPUTS: tuple[TensorSpec, ...] = (SEQUENCES_WAITING, SEQUENCES_RUNNING, KV_CELLS, KV_CELLS_RUNNING)
"""The load of the whole server."""
MODEL_INFO_OUTPUTS: tuple[TensorSpec, ...] = (MODEL_NAME, N_CTX, STEP_KIND, STEP_TOKENS, STEP_THREADS, *LOAD_OUTPUTS)

# ---- Request and response parameters (Triton's).

PARAM_TIMEOUT = "timeout"
"""int64, microseconds: time after which the request fails with DEADLINE_EXCEEDED; 0 is no limit."""
PARAM_CALLER = "anyserve_caller"
"""string of at most MAX_CALLER characters: the owner of the request. Callers share the server fairly. Our own."""
MAX_CALLER = 256
PARAM_TASK = "task"
"""string, request: one of TASKS; absent: generate, or the first task of a model without it. Our own. STREAMED_TASKS
have streams."""
PARAM_EMPTY_FINAL = "triton_enable_empty_final_response"
"""bool, request: the final flag comes on a response of its own, without outputs."""
PARAM_FINAL = "triton_final_response"
"""bool, stream response: nothing more follows for this request id."""

# ---- Parameters of step batches (our own).

PARAM_REQUEST = "anyserve_request"
"""int64, stream request: answer it in step batches, under this number, 0…2³¹-1. An error response repeats it."""
PARAM_WHOLE = "anyserve_whole"
"""bool, stream request with PARAM_REQUEST: send its rows together, when its last choice has ended."""
PARAM_BUNDLE = "anyserve_bundle"
"""bool, stream request without anything else: each of `raw_input_contents` is a serialized request of the stream."""
MAX_BUNDLE = 256
"""Maximum requests in one bundle."""
PARAM_CANCEL = "anyserve_cancel"
"""int64, stream request without anything else: cancel the request with this number."""

# ---- Identifiers for logs and traces: metadata of the call, or parameters of a request on a shared stream.

METADATA_REQUEST_ID = "x-request-id"
"""The HTTP client's id of its request."""
METADATA_TRACEPARENT = "traceparent"
"""The span of W3C's trace context that the request belongs to."""
METADATA_TRACESTATE = "tracestate"
"""Tracing systems' own data on that trace, passed on unchanged; never without METADATA_TRACEPARENT."""
HEADER_PARAMETERS = {
    METADATA_REQUEST_ID: "anyserve_request_id",
    METADATA_TRACEPARENT: "anyserve_traceparent",
    METADATA_TRACESTATE: "anyserve_tracestate",
}
"""String parameters of a request with PARAM_REQUEST. They have no effect on its answer."""

# ---- Headers of a gateway's endpoint picker, passed on like the identifiers above. They have no effect on the answer.

METADATA_OBJECTIVE = "x-llm-d-inference-objective"
"""Name of the request's objective: a priority class of the gateway."""
METADATA_FAIRNESS_ID = "x-llm-d-inference-fairness-id"
"""The tenant that the gateway shares capacity with, such as a team."""
METADATA_SESSION_TOKEN = "x-session-token"
"""The gateway's own mark of the server that answers a session."""
METADATA_SESSION_ID = "x-session-id"
"""The session that the request belongs to."""
METADATA_TTFT_TARGET = "x-llm-d-slo-ttft-ms"
"""Milliseconds in which the first token should arrive, as a decimal number."""
METADATA_TPOT_TARGET = "x-llm-d-slo-tpot-ms"
"""Milliseconds between two tokens, as a decimal number."""
ROUTING_PARAMETERS = {
    METADATA_OBJECTIVE: "anyserve_objective",
    METADATA_FAIRNESS_ID: "anyserve_fairness_id",
    METADATA_SESSION_TOKEN: "anyserve_session_token",
    METADATA_SESSION_ID: "anyserve_session_id",
    METADATA_TTFT_TARGET: "anyserve_slo_ttft_ms",
    METADATA_TPOT_TARGET: "anyserve_slo_tpot_ms",
}
"""String parameters of a request with PARAM_REQUEST."""
MAX_ROUTING_VALUE = 256
"""Maximum characters of each of them, all visible ASCII."""
METADATA_PARAMETERS = {**HEADER_PARAMETERS, **ROUTING_PARAMETERS}
"""The parameter of a request with PARAM_REQUEST for each of the metadata above."""

# ---- Details of an error besides status and message. Unary: trailing metadata. Stream: parameters of infer_response.

ERROR_STATUS = "error_status"
"""Stream only: the name of the gRPC status code that a unary call would have got."""
ERROR_REASON = "error_reason"
"""One of the REASON_ constants, for programs."""
ERROR_TENSOR = "error_tensor"
"""The input tensor that is wrong."""
ERROR_PART = "error_part"
"""The part of a guide that is wrong, by the name in its PART_COMMENT; or the field of BODY."""
ERROR_RETRY_AFTER = "error_retry_after"
"""Seconds after which the request may succeed, as a decimal number."""
ERROR_CONTEXT_LENGTH = "error_context_length"
"""With REASON_CONTEXT_LENGTH: maximum tokens that fit into the context."""
ERROR_PROMPT_TOKENS = "error_prompt_tokens"
"""With REASON_CONTEXT_LENGTH: tokens of the prompt, after `>` if counting stopped there."""

PART_COMMENT = "// part: "
"""Begins the line before a rule of a `lark` grammar; the rest of that line names the part that the rule belongs to."""
REWRITTEN_COMMENT = "// rewritten"
"""Follows `%lark {` if the lines of this nested grammar are not its author's, so that their numbers mean nothing."""

REASON_CONTEXT_LENGTH = "context_length_exceeded"
REASON_QUEUE_FULL = "queue_full"
REASON_DRAINING = "draining"
REASON_RESPONSE_TOO_LARGE = "response_too_large"
"""A retry of the same request fails too: the response is larger than one message may be."""

# ---- ModelConfig.parameters: properties of a model that the sidecar reads. All are strings; absent means unknown.

CONFIG_PARAMETERS: dict[str, str] = {
    "chat_template": "Jinja source of the chat template",
    "chat_template_tool_use": "Jinja source of the template for requests with tools, if the model has a separate one",
    "bos_token": "text of the begin-of-sequence token",
    "eos_token": "text of the end-of-sequence token",
    "pad_token": "text of the padding token",
    "add_bos_token": "`true` or `false`: whether a prompt of `generate` that doesn't begin with the BOS gets one; an "
    "empty prompt always does",
    "control_tokens": "JSON array: texts of the control tokens, which are recognized in prompts only",
    "user_defined_tokens": "JSON array: texts of the tokens that are recognized in any text, except whitespace; at "
    "most 256 KiB, those in the chat templates first",
    "context_length": "maximum tokens of one sequence, prompt and completion together",
    "vocab_size": "number of tokens in the vocabulary",
    "architecture": "GGUF `general.architecture`",
    "description": "architecture, size and quantization in one line",
    "loaded_at": "Unix time, in seconds, at which the model became ready",
    "tasks": "tasks of the model, separated by commas: `generate`, `chat`, `responses`, `embed`, `rank`, "
    "`tokenize`, `detokenize`; absent: `generate`",
    "pooling": "the default of the input `pooling`: `mean`, `cls`, `last`",
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


def _event_table() -> str:
    rows = ["| `type` | field | meaning |", "|---|---|---|"]
    for kind, fields in EVENT_FIELDS.items():
        rows += [f"| `{kind}` | `{name}` | {meaning} |" for name, meaning in fields.items()]
    return "\n".join(rows)


def markdown() -> str:
    """Returns the tables of `protos/README.md`."""
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
        f"### Fields of an event\n\n{_event_table()}\n\n"
        f"### `model_info` outputs\n\n{_tensor_table(MODEL_INFO_OUTPUTS)}\n\n"
        f"### `ModelConfig.parameters`\n\n| parameter | meaning |\n|---|---|\n{parameters}\n"
    )


if __name__ == "__main__":
    print(markdown(), end="")
