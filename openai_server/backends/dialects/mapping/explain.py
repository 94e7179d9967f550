"""The outputs of a mapping file in words, for `check` and for the table in docs/backends.md. PURE."""

from openai_server.backends.dialects.mapping.schema import Output, Outputs, Reason, Text

ABSENT = "not reported, and absent from responses"


def explain_outputs(outputs: Outputs) -> dict[str, str]:
    """The fields of base.Explanation for the outputs."""
    counts = [_place(place) for place in (outputs.prompt_tokens, outputs.completion_tokens) if place is not None]
    return {
        "text": _text(outputs.text),
        "finish_reason": _reason(outputs),
        "counts": " and ".join(counts) if len(counts) == 2 else ABSENT,
        "logprobs": f"tensor {outputs.logprobs.tensor}, in the form of {outputs.logprobs.form}"
        if outputs.logprobs
        else ABSENT,
    }


def _reason(outputs: Outputs) -> str:
    if outputs.finish_reason == "counts":
        return "derived: `length` if the token count reaches the limit, otherwise `stop`"
    if outputs.finish_reason is None:
        return "absent; in a stream, `stop` if the backend marks its end"
    if (
        isinstance(outputs.finish_reason, Reason)
        and outputs.finish_reason.map
        and not any(outputs.finish_reason.map.values())
    ):
        return "absent: the backend's own marks only the end"
    return _place(outputs.finish_reason)


def _text(text: str | Text) -> str:
    if isinstance(text, str):
        return _place(text)
    manners = [
        words
        for words, holds in (
            ("the whole text so far in each response", text.cumulative is True),
            ("begins with the prompt", text.has_prompt),
            ("ends with the stop string", text.keeps_stop),
        )
        if holds
    ]
    return ", ".join([_place(text), *manners])


def _place(place: str | Output) -> str:
    if isinstance(place, str):
        return f"tensor {place}"
    names = [place.tensor] if isinstance(place.tensor, str) else place.tensor or []
    return f"tensor {' or '.join(names)}" + (f", {place.json} of its JSON" if place.json else "")
