"""Request fields of other servers that this server doesn't support, with the values that it accepts. PURE.

It accepts the values that change nothing; null is always accepted. Clients send these fields because their settings
include them, with the other server's default.
"""

from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[object]]

_NULL: Sequence[object] = ()

CACHE_CONTROL: Values = {
    # Anthropic's field, as LiteLLM and OpenRouter send it. Prefixes are always cached.
    "cache_control": (
        {"type": "ephemeral"},
        {"type": "ephemeral", "ttl": "5m"},
        {"type": "ephemeral", "ttl": "1h"},
    )
}

KEEP_ALIVE = (-1, "5m")
"""Ollama's field: the minimum time that a model stays loaded. This server never unloads it."""

# ---- Completions and chats

_VLLM: Values = {
    "allowed_token_ids": _NULL,
    "bad_words": ([],),
    "cache_salt": _NULL,
    "documents": ([],),
    "ec_transfer_params": _NULL,
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": _NULL,
    "length_penalty": (1,),  # applies to beam search only
    "logits_processors": ([],),
    "logprob_token_ids": _NULL,
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": _NULL,
    "repetition_detection": _NULL,
    "request_id": _NULL,
    "return_mm_kwargs": (True,),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_token_offsets": (False,),
    "return_tokens_as_token_ids": (False,),
    "routed_experts_prompt_start": (0,),
    "session_id": _NULL,
    "spaces_between_special_tokens": (True,),
    "stream_interval": (1,),
    "structural_tag": _NULL,
    "truncate_prompt_tokens": _NULL,
    "truncation_side": _NULL,
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}
_LLAMA_SERVER: Values = {
    "adaptive_decay": _NULL,
    "adaptive_target": (-1,),
    "backend_sampling": (False,),
    "cache_prompt": (True,),
    "chat_format": _NULL,
    "chat_parser": ("",),
    "dynatemp_exponent": (1,),
    "dynatemp_range": (0,),
    "generation_prompt": ("",),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "id_slot": (-1,),
    "image_data": ([],),
    "input_extra": ([],),
    "input_prefix": ("",),
    "input_suffix": ("",),
    "lora": ([],),
    "min_keep": (0,),
    "n_cache_reuse": (0,),
    "n_cmpl": (1,),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_keep": (0,),
    "n_probs": (0,),
    "post_sampling_probs": (False,),
    "preserved_tokens": ([],),
    "reasoning_budget_arm_immediately": (False,),
    "reasoning_budget_end_tag": ("",),
    "reasoning_budget_message": ("",),
    "reasoning_budget_start_tag": ("",),
    "reasoning_in_content": (False,),
    "response_fields": ([],),
    "return_tokens": (False,),
    "samplers": (
        ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
        "edskypmxt",  # the same samplers
    ),
    "speculative.n_max": _NULL,
    "speculative.n_min": _NULL,
    "speculative.ngram_m_hits": _NULL,
    "speculative.ngram_size_m": _NULL,
    "speculative.ngram_size_n": _NULL,
    "speculative.p_min": _NULL,
    "speculative.type": _NULL,
    "sse_ping_interval": _NULL,
    "t_max_predict_ms": (0, -1),
    "t_max_prompt_ms": (0, -1),
    "thinking_forced_open": (False,),
    # From older versions, and from llama-cpp-python.
    "logit_bias_type": _NULL,
    "mirostat_mode": (0,),
    "penalize_nl": (False,),
    "penalty_prompt": _NULL,
    "slot_id": (-1,),
    "system_prompt": ("",),
    "tfs_z": (1,),
}
_OLLAMA: Values = {
    "context": _NULL,
    "format": ("",),
    "images": ([],),
    "keep_alive": KEEP_ALIVE,
    "num_ctx": _NULL,
    "num_predict": _NULL,
    "options": ({},),
    "raw": (False,),
    "reasoning": _NULL,  # OpenRouter's too
    "shift": _NULL,
    "system": _NULL,
    "template": _NULL,
    "think": _NULL,
    "ttl": _NULL,  # LM Studio's
}
_GENERATION: Values = {**_VLLM, **_LLAMA_SERVER, **_OLLAMA, **CACHE_CONTROL}

COMPLETIONS: Values = {
    **_GENERATION,
    "add_special_tokens": (True,),
    "n_predict": _NULL,
    "parse_tool_calls": (False,),
    "prompt_embeds": _NULL,
    # A limit of reasoning needs the tags of a chat template.
    "reasoning_budget_tokens": (-1,),
    "reasoning_format": ("none",),
    "thinking_budget_tokens": (-1,),
    "thinking_token_budget": (-1,),
}
CHAT: Values = {
    **_GENERATION,
    "add_special_tokens": (False,),
    "best_of": (1,),
    "chat_template": _NULL,
    "echo": (False,),
    "include_reasoning": (True,),
    "n_predict": (-1,),
    "parse_tool_calls": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "suffix": ("",),
}

# ---- The other endpoints

_POOLING: Values = {
    "activation": _NULL,
    "additional_data": _NULL,
    "cache_salt": _NULL,
    "mm_processor_kwargs": ({},),
    "padding": ("do_not_pad",),
    "request_id": _NULL,
    "softmax": _NULL,
    "truncate": _NULL,
    "truncate_prompt_tokens": _NULL,
    "truncation_side": _NULL,
    "use_activation": _NULL,
}
EMBEDDINGS: Values = {
    **_POOLING,
    "add_special_tokens": (True,),
    "embd_normalize": (2,),  # llama-server's: divide by the Euclidean norm
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "image_data": ([],),
    "input_type": _NULL,
    "keep_alive": KEEP_ALIVE,
    "options": ({},),
    "task": _NULL,
}
RERANK: Values = {
    **_POOLING,
    "max_chunks_per_doc": _NULL,
    "max_tokens_per_doc": _NULL,
    "rank_fields": (["text"],),
    "raw_scores": _NULL,
    "return_text": (False,),
    "texts": _NULL,
}
TOKENIZE_CONTENT: Values = {"add_special_tokens": (False,), "return_token_strs": (False,)}
TOKENIZE_PROMPT: Values = {"with_pieces": (False,)}
TOKENIZE_MESSAGES: Values = {
    "add_generation_prompt": (True,),
    "chat_template": _NULL,
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "tools": ([],),
    "with_pieces": (False,),
}
