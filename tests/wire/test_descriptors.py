"""Our messages and service, field by field, against the copy of Triton's that `tritonclient` carries."""

import json
import subprocess
import sys
from typing import Any

import pytest

SERVICE = "GRPCInferenceService"
EXACT = (
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
SUBSET = (
    *("ModelInput", "ModelOutput", "ModelParameter", "ModelTransactionPolicy"),
    *("ModelConfig", "ModelConfig.ParametersEntry"),
    *("InferStatistics", "InferBatchStatistics", "ModelStatistics"),
)
"""Messages of which we carry what we read or write; the rest are unknown fields on the wire."""


def dump(*modules: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.wire.descriptors", *modules]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return dump("protos.grpc_predict_v2_pb2")


@pytest.fixture(scope="module")
def tritons() -> dict[str, Any]:
    return dump("tritonclient.grpc.model_config_pb2", "tritonclient.grpc.service_pb2")


def test_the_package_is_the_same(ours: dict[str, Any], tritons: dict[str, Any]) -> None:
    assert {*ours["packages"].values(), *tritons["packages"].values()} == {"inference"}


def test_every_message_of_ours_is_compared(ours: dict[str, Any]) -> None:
    assert sorted(ours["messages"]) == sorted(EXACT + SUBSET)


@pytest.mark.parametrize("message", EXACT)
def test_message_is_equal(ours: dict[str, Any], tritons: dict[str, Any], message: str) -> None:
    assert ours["messages"][message] == tritons["messages"][message]


@pytest.mark.parametrize("message", SUBSET)
def test_message_is_a_subset(ours: dict[str, Any], tritons: dict[str, Any], message: str) -> None:
    theirs = tritons["messages"][message]
    assert ours["messages"][message] == {name: theirs.get(name) for name in ours["messages"][message]}


def test_enums_are_equal(ours: dict[str, Any], tritons: dict[str, Any]) -> None:
    assert ours["enums"] == {name: tritons["enums"][name] for name in ours["enums"]}


def test_methods_are_tritons(ours: dict[str, Any], tritons: dict[str, Any]) -> None:
    theirs = tritons["services"][SERVICE]
    assert ours["services"] == {SERVICE: {name: theirs.get(name) for name in ours["services"][SERVICE]}}


def test_the_methods_of_the_standard_are_there(ours: dict[str, Any]) -> None:
    unary = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    assert ours["services"][SERVICE].keys() >= {*unary, "ModelStreamInfer", "ModelConfig", "ModelStatistics"}
    stream = ours["services"][SERVICE]["ModelStreamInfer"]
    assert (stream["client_streaming"], stream["server_streaming"]) == (True, True)
