"""Prompt lookup on real models: the results of a worker without it, in fewer steps."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import recurrent, servers
from tests.e2e.conftest import SMOLLM2
from tests.e2e.messages import infer, outputs
from tests.models import smollm2_path

PASSAGE = (
    "The old lighthouse stood on a cliff above the bay. Every evening its keeper, a quiet man named Tomas, climbed the "
    "hundred and twelve steps, trimmed the wick, and lit the lamp."
)
TASK = "Repeat the following text exactly, word for word:\n\n"
REPEAT = f"<|im_start|>user\n{TASK}{PASSAGE}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def drafting_service() -> Iterator[GRPCInferenceServiceStub]:
    with (
        servers.worker(
            *(f"--model={SMOLLM2}={smollm2_path()}", "--n-ctx=2048", "--parallel=1", "--cached-sequences=0"),
            *("--no-prefix-cache", "--prompt-lookup=4"),
        ) as (_, address),
        servers.stub(address) as service,
    ):
        yield service


# A step of another size may change the last bits of a logit, so the text is the same only where one token is far
# likelier than the others, or the penalties make it so.
@pytest.mark.parametrize(
    "inputs", [{"temperature": 0.0}, {"temperature": 0.01, "seed": 3}, {"repetition_penalty": 1.01}]
)
def test_a_repeated_passage_is_the_same_in_fewer_steps(
    drafting_service: GRPCInferenceServiceStub, exact_service: GRPCInferenceServiceStub, inputs: dict[str, Any]
) -> None:
    request = infer(SMOLLM2, REPEAT, max_tokens=40, **{"temperature": 0.0} | inputs)
    expected = outputs(exact_service.ModelInfer(request))
    assert PASSAGE.startswith(expected["text"][0])
    before = servers.statistics(drafting_service, SMOLLM2).execution_count
    assert outputs(drafting_service.ModelInfer(request)) == expected
    steps = servers.statistics(drafting_service, SMOLLM2).execution_count - before
    assert steps < expected["completion_tokens"][0] / 2


def test_generation_can_end_inside_a_draft(drafting_service: GRPCInferenceServiceStub) -> None:
    for length in range(20, 26):
        response = outputs(drafting_service.ModelInfer(infer(SMOLLM2, REPEAT, max_tokens=length, temperature=0.0)))
        assert response["completion_tokens"] == [length]
        assert response["finish_reason"] == ["length"]
        assert PASSAGE.startswith(response["text"][0])
    response = outputs(drafting_service.ModelInfer(infer(SMOLLM2, REPEAT, temperature=0.0, stop=[" named"])))
    assert (response["text"], response["finish_reason"]) == ([PASSAGE[: PASSAGE.index(" named")]], ["stop"])


def test_a_model_whose_state_cannot_be_truncated_is_served_without_prompt_lookup() -> None:
    with TemporaryDirectory() as folder:
        path = recurrent.make(Path(folder))[recurrent.MAMBA]
        with servers.worker(f"--model=mamba={path}", "--prompt-lookup=4") as (process, address):
            assert "prompt lookup is off for this model" in process.output
            with servers.stub(address) as service:
                response = outputs(service.ModelInfer(infer("mamba", REPEAT, max_tokens=20, temperature=0.0)))
                assert response["completion_tokens"] == [20]
                assert servers.statistics(service, "mamba").execution_count == 20
