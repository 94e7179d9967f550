"""Compares our messages and service, field by field, with Triton's in `tritonclient`."""

import json
import subprocess
import sys
from typing import Any

import pytest

SERVICE = "GRPCInferenceService"
EQUAL_MESSAGES = (
    *("ServerLiveRequest", "ServerLiveResponse", "ServerReadyRequest", "ServerReadyResponse"),
    *("ModelReadyRequest", "ModelReadyResponse", "ServerMetadataRequest", "ServerMetadataResponse"),
    *("ModelMetadataRequest", "ModelMetadataResponse", "ModelMetadataResponse.TensorMetadata"),
    *("InferParameter", "InferTensorContents"),
    *("ModelInferRequest", "ModelInferRequest.ParametersEntry"),
    *("ModelInferRequest.InferInputTensor", "ModelInferRequest.InferInputTensor.ParametersEntry"),
    "ModelInferRequest.InferRequestedOutputTensor",
    "ModelInferRequest.InferRequestedOutputTensor.ParametersEntry",
    *("ModelInferResponse", "ModelInferResponse.ParametersEntry"),
    *("ModelInferResponse.InferOutputTensor", "ModelInferResponse.InferOutputTensor.ParametersEntry"),
    "ModelStreamInferResponse",
    *("ModelConfigRequest", "ModelConfigResponse"),
    *("ModelStatisticsRequest", "ModelStatisticsResponse", "StatisticDuration"),
    *("RepositoryIndexRequest", "RepositoryIndexResponse", "RepositoryIndexResponse.ModelIndex"),
)
SUBSET_MESSAGES = (
    *("ModelInput", "ModelOutput", "ModelParameter", "ModelTransactionPolicy"),
    *("ModelConfig", "ModelConfig.ParametersEntry"),
    *("InferStatistics", "InferBatchStatistics", "ModelStatistics"),
)
"""Messages of which we define only the fields that we read or write; the others are unknown fields on the wire."""


def dump(*modules: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.wire.descriptors", *modules]
    description: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return description


@pytest.fixture(scope="module")
def our_protocol() -> dict[str, Any]:
    return dump("protos.grpc_predict_v2_pb2")


@pytest.fixture(scope="module")
def tritons() -> dict[str, Any]:
    return dump("tritonclient.grpc.model_config_pb2", "tritonclient.grpc.service_pb2")


@pytest.mark.slow
def test_the_package_is_the_same(our_protocol: dict[str, Any], tritons: dict[str, Any]) -> None:
    assert {*our_protocol["packages"].values(), *tritons["packages"].values()} == {"inference"}


def test_every_message_of_ours_is_compared(our_protocol: dict[str, Any]) -> None:
    assert sorted(our_protocol["messages"]) == sorted(EQUAL_MESSAGES + SUBSET_MESSAGES)


@pytest.mark.parametrize("message", EQUAL_MESSAGES)
def test_a_message_is_equal(our_protocol: dict[str, Any], tritons: dict[str, Any], message: str) -> None:
    assert our_protocol["messages"][message] == tritons["messages"][message]


@pytest.mark.parametrize("message", SUBSET_MESSAGES)
def test_a_message_is_a_subset(our_protocol: dict[str, Any], tritons: dict[str, Any], message: str) -> None:
    triton_fields = tritons["messages"][message]
    assert our_protocol["messages"][message] == {
        name: triton_fields.get(name) for name in our_protocol["messages"][message]
    }


def test_enums_are_equal(our_protocol: dict[str, Any], tritons: dict[str, Any]) -> None:
    assert our_protocol["enums"] == {name: tritons["enums"][name] for name in our_protocol["enums"]}


def test_methods_are_those_of_triton(our_protocol: dict[str, Any], tritons: dict[str, Any]) -> None:
    triton_methods = tritons["services"][SERVICE]
    assert our_protocol["services"] == {
        SERVICE: {name: triton_methods.get(name) for name in our_protocol["services"][SERVICE]}
    }


def test_the_methods_of_the_standard_exist(our_protocol: dict[str, Any]) -> None:
    unary = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    assert our_protocol["services"][SERVICE].keys() >= {*unary, "ModelStreamInfer", "ModelConfig", "ModelStatistics"}
    stream = our_protocol["services"][SERVICE]["ModelStreamInfer"]
    assert (stream["client_streaming"], stream["server_streaming"]) == (True, True)
