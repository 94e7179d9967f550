"""Tensors of the models in the Triton server, as their projects declare them. One tensor a line: name, datatype, the
dimensions, and `?` if it is optional."""

from __future__ import annotations

VLLM_INPUTS = """
text_input STRING 1
image STRING -1 ?
stream BOOL 1 ?
sampling_parameters STRING 1 ?
exclude_input_in_output BOOL 1 ?
return_finish_reason BOOL 1 ?
return_cumulative_logprob BOOL 1 ?
return_logprobs BOOL 1 ?
return_num_input_tokens BOOL 1 ?
return_num_output_tokens BOOL 1 ?
embedding_request STRING 1 ?
"""
VLLM_OUTPUTS = """
text_output STRING -1
finish_reason STRING -1
cumulative_logprob FP32 -1
logprobs STRING -1
num_input_tokens UINT32 1
num_output_tokens UINT32 -1
"""

TRTLLM_INPUTS = """
text_input STRING 1
decoder_text_input STRING 1 ?
max_tokens INT32 1
num_return_sequences INT32 1 ?
bad_words STRING -1 ?
stop_words STRING -1 ?
exclude_input_in_output BOOL 1 ?
end_id INT32 1 ?
pad_id INT32 1 ?
top_k INT32 1 ?
top_p FP32 1 ?
temperature FP32 1 ?
length_penalty FP32 1 ?
repetition_penalty FP32 1 ?
min_tokens INT32 1 ?
presence_penalty FP32 1 ?
frequency_penalty FP32 1 ?
seed UINT64 1 ?
return_log_probs BOOL 1 ?
return_context_logits BOOL 1 ?
return_generation_logits BOOL 1 ?
return_perf_metrics BOOL 1 ?
return_num_input_tokens BOOL 1 ?
return_num_output_tokens BOOL 1 ?
beam_width INT32 1 ?
stream BOOL 1 ?
prompt_embedding_table FP16 -1,-1 ?
prompt_table_extra_id UINT64 1 ?
prompt_vocab_size INT32 1 ?
embedding_bias_words STRING -1 ?
embedding_bias_weights FP32 -1 ?
lora_task_id UINT64 1 ?
guided_decoding_guide_type STRING 1 ?
guided_decoding_guide STRING 1 ?
"""
TRTLLM_OUTPUTS = """
text_output STRING -1
cum_log_probs FP32 -1
output_log_probs FP32 -1,-1
batch_index INT32 1
sequence_index INT32 1
num_input_tokens INT32 1
num_output_tokens INT32 1
"""

PREPROCESSING_INPUTS = """
QUERY STRING 1
DECODER_QUERY STRING 1 ?
REQUEST_OUTPUT_LEN INT32 1
BAD_WORDS_DICT STRING -1 ?
STOP_WORDS_DICT STRING -1 ?
EMBEDDING_BIAS_WORDS STRING -1 ?
EMBEDDING_BIAS_WEIGHTS FP32 -1 ?
END_ID INT32 1 ?
PAD_ID INT32 1 ?
PROMPT_TABLE_EXTRA_ID UINT64 1 ?
"""
PREPROCESSING_OUTPUTS = """
INPUT_ID INT32 -1
REQUEST_INPUT_LEN INT32 1
STOP_WORDS_IDS INT32 2,-1
REQUEST_OUTPUT_LEN INT32 -1
"""
ENGINE_INPUTS = """
input_ids INT32 -1
input_lengths INT32 1
request_output_len INT32 1
stop_words_list INT32 2,-1 ?
exclude_input_in_output BOOL 1 ?
runtime_top_k INT32 1 ?
runtime_top_p FP32 1 ?
temperature FP32 1 ?
len_penalty FP32 1 ?
repetition_penalty FP32 1 ?
min_tokens INT32 1 ?
presence_penalty FP32 1 ?
frequency_penalty FP32 1 ?
seed UINT64 1 ?
return_log_probs BOOL 1 ?
return_context_logits BOOL 1 ?
return_generation_logits BOOL 1 ?
return_perf_metrics BOOL 1 ?
return_num_input_tokens BOOL 1 ?
return_num_output_tokens BOOL 1 ?
num_return_sequences INT32 1 ?
beam_width INT32 1 ?
streaming BOOL 1 ?
prompt_embedding_table FP16 -1,-1 ?
prompt_vocab_size INT32 1 ?
lora_task_id UINT64 1 ?
guided_decoding_guide_type STRING 1 ?
guided_decoding_guide STRING 1 ?
"""
ENGINE_OUTPUTS = """
output_ids INT32 -1,-1
sequence_length INT32 -1
cum_log_probs FP32 -1
output_log_probs FP32 -1,-1
batch_index INT32 1
sequence_index INT32 1
num_input_tokens INT32 1
num_output_tokens INT32 1
"""
POSTPROCESSING_INPUTS = """
TOKENS_BATCH INT32 -1,-1
SEQUENCE_LENGTH INT32 -1
"""
POSTPROCESSING_OUTPUTS = "OUTPUT STRING -1"

LLMAPI_INPUTS = """
text_input STRING -1
image_url STRING -1 ?
streaming BOOL 1 ?
sampling_param_best_of INT32 1 ?
sampling_param_temperature FP32 1 ?
sampling_param_top_k INT32 1 ?
sampling_param_top_p FP32 1 ?
sampling_param_frequency_penalty FP32 1 ?
sampling_param_presence_penalty FP32 1 ?
sampling_param_max_tokens INT32 1 ?
sampling_param_stop STRING -1 ?
sampling_param_seed UINT64 1 ?
sampling_param_exclude_input_from_output BOOL 1 ?
sampling_param_return_perf_metrics BOOL 1 ?
return_finish_reason BOOL 1 ?
return_stop_reason BOOL 1 ?
return_cumulative_logprob BOOL 1 ?
stop BOOL 1 ?
lora_id UINT64 1 ?
lora_name STRING 1 ?
lora_path STRING 1 ?
lora_ckpt_source STRING 1 ?
"""
LLMAPI_OUTPUTS = """
text_output STRING -1
finish_reason STRING -1
stop_reason STRING -1
cumulative_logprob FP32 -1
"""

CUSTOM_INPUTS = """
PROMPT STRING 1
PARAMS STRING 1 ?
"""
CUSTOM_OUTPUTS = "GENERATED STRING 1"
"""Its parameters are a JSON object, and its last response is empty."""

CUMULATIVE_INPUTS = """
question STRING 1
length INT32 1
stop_sequences STRING -1 ?
"""
CUMULATIVE_OUTPUTS = """
answer_so_far STRING 1
why STRING 1
n_in INT64 1
n_out INT64 1
"""

TUTORIAL_INPUTS = "prompt STRING -1"
TUTORIAL_OUTPUTS = "text STRING -1"

CONTRACT_INPUTS = """
prompt STRING 1
max_tokens INT32 1 ?
temperature FP32 1 ?
top_p FP32 1 ?
seed INT32 1 ?
stop STRING -1 ?
n INT32 1 ?
"""
CONTRACT_OUTPUTS = """
token STRING -1
finish_reason STRING -1
index INT32 -1
prompt_tokens INT32 1
cached_tokens INT32 1
completion_tokens INT32 -1
"""


def rows(table: str) -> list[tuple[str, str, str, bool]]:
    """Returns name, datatype, dimensions and whether the tensor is optional."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [(name, datatype, dims, bool(rest)) for name, datatype, dims, *rest in lines]


def config(
    *,
    inputs: str,
    outputs: str,
    backend: str = "python",
    platform: str = "",
    max_batch_size: int = 0,
    decoupled: bool | None = None,
    more: str = "",
) -> str:
    """Returns a config.pbtxt. The name of the model is that of its folder."""
    kind = f'platform: "{platform}"' if platform else f'backend: "{backend}"'
    lines = [kind, f"max_batch_size: {max_batch_size}"]
    if decoupled is not None:
        lines.append(f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}")
    for name, datatype, dims, optional in rows(inputs):
        rest = " optional: true" if optional else ""
        lines.append(f'input {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ]{rest} }}')
    for name, datatype, dims, _ in rows(outputs):
        lines.append(f'output {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] }}')
    return "\n".join([*lines, more, ""])


# ---- The ensemble

PREPROCESSING_MAP = {
    "QUERY": "text_input",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
ENGINE_MAP = {
    "input_ids": "_INPUT_ID",
    "input_lengths": "_REQUEST_INPUT_LEN",
    "request_output_len": "_REQUEST_OUTPUT_LEN",
    "stop_words_list": "_STOP_WORDS_IDS",
    "exclude_input_in_output": "exclude_input_in_output",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    **{
        name: name
        for name in (
            "temperature",
            "repetition_penalty",
            "min_tokens",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "return_log_probs",
            "return_context_logits",
            "return_generation_logits",
            "return_perf_metrics",
            "return_num_input_tokens",
            "return_num_output_tokens",
            "num_return_sequences",
            "beam_width",
            "prompt_embedding_table",
            "prompt_vocab_size",
            "lora_task_id",
            "guided_decoding_guide_type",
            "guided_decoding_guide",
        )
    },
}
ENGINE_OUTPUT_MAP = {
    "output_ids": "_TOKENS_BATCH",
    "sequence_length": "_SEQUENCE_LENGTH",
    **{
        name: name
        for name in (
            "cum_log_probs",
            "output_log_probs",
            "batch_index",
            "sequence_index",
            "num_input_tokens",
            "num_output_tokens",
        )
    },
}


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def ensemble_steps() -> str:
    preprocessed = {name: f"_{name}" for name, *_ in rows(PREPROCESSING_OUTPUTS)}
    steps = [
        _step("preprocessing", PREPROCESSING_MAP, preprocessed),
        _step("tensorrt_llm", ENGINE_MAP, ENGINE_OUTPUT_MAP),
        _step(
            "postprocessing",
            {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"},
            {"OUTPUT": "text_output"},
        ),
    ]
    return "ensemble_scheduling { " + " ".join(steps) + " }"
