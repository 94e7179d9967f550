"""Headers of an endpoint picker: names, older names, and the values that are passed on."""

import pytest

from openai_server.core.routing import NO_ROUTING, Routing, routing
from protos import contract


def of(**headers: str) -> Routing:
    return routing({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})


def test_other_headers_mean_no_routing() -> None:
    assert of(x_request_id="a", content_type="application/json") is NO_ROUTING
    assert (NO_ROUTING.model, NO_ROUTING.passed_on, NO_ROUTING.fairness_id) == ("", (), "")


def test_all_valid_values_are_passed_on_under_their_current_names() -> None:
    found = of(
        x_llm_d_inference_objective="fast",
        x_llm_d_inference_fairness_id="team-a",
        x_session_token="dG9rZW4=",
        x_session_id="s-1",
        x_llm_d_slo_ttft_ms="250",
        x_llm_d_slo_tpot_ms="12.5",
    )
    values = ("fast", "team-a", "dG9rZW4=", "s-1", "250", "12.5")
    assert found.passed_on == tuple(zip(contract.ROUTING_PARAMETERS, values, strict=True))
    assert (found.model, found.fairness_id) == ("", "team-a")


def test_older_names_are_read_and_give_way_to_current_ones() -> None:
    old = of(
        x_gateway_inference_objective="o",
        x_gateway_inference_fairness_id="f",
        x_gateway_model_name_rewrite="m",
        x_slo_ttft_ms="1",
        x_slo_tpot_ms="2",
    )
    names = (contract.METADATA_OBJECTIVE, contract.METADATA_FAIRNESS_ID)
    targets = (contract.METADATA_TTFT_TARGET, contract.METADATA_TPOT_TARGET)
    assert old == Routing("m", tuple(zip((*names, *targets), ("o", "f", "1", "2"), strict=True)))
    both = of(x_llm_d_model_name_rewrite="new", x_gateway_model_name_rewrite="old", x_gateway_inference_fairness_id="f")
    assert (both.model, both.fairness_id) == ("new", "f")


@pytest.mark.parametrize("value", ["", "a b", "ä", "x" * 257, "\x7f"])
def test_invalid_texts_are_ignored(value: str) -> None:
    assert of(x_llm_d_inference_fairness_id=value, x_session_id="s").passed_on == ((contract.METADATA_SESSION_ID, "s"),)


@pytest.mark.parametrize("value", ["", "-1", "1e3", "nan", "1.", ".5", "٣", "9" * 10])
def test_targets_that_are_no_decimal_numbers_are_ignored(value: str) -> None:
    assert of(x_llm_d_slo_ttft_ms=value, x_llm_d_slo_tpot_ms=value).passed_on == ()


def test_a_rewrite_may_be_any_text() -> None:
    """A name that no backend has is an error later, so none may be dropped here."""
    assert of(x_llm_d_model_name_rewrite="mödel").model == "mödel"
    assert routing({b"x-llm-d-model-name-rewrite": b"\xff"}).model == "\ufffd"
