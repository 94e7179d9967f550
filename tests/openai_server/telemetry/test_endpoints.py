import re

import pytest

from openai_server.routes import BY_MODEL, GENERATION, TASKS
from openai_server.telemetry.endpoints import OTHER, UNLOGGED, endpoint

OURS = (*GENERATION, *TASKS, "/v1/models", "/models", *UNLOGGED)


@pytest.mark.parametrize("path", OURS)
def test_every_path_of_ours_has_a_name_with_and_without_the_version(path: str) -> None:
    name = endpoint(path)
    assert name.removeprefix("/v1") == path.removeprefix("/v1")
    assert endpoint(name) == name


@pytest.mark.parametrize("path", BY_MODEL)
def test_a_model_in_the_path_makes_no_name_of_its_own(path: str) -> None:
    name = endpoint(re.sub("{.*}", "some/model", path))
    assert name in {endpoint(path) for path in GENERATION | TASKS}
    assert path.endswith(name.removeprefix("/v1"))


def test_what_clients_make_up_has_one_name() -> None:
    made_up = {endpoint(path) for path in ("/", "", "/v1", "/x", "/v1/audio/speech", "/v1/chat/completions/x", "/..")}
    assert made_up == {OTHER}
    assert {endpoint(f"/v1/models/{k}") for k in range(9)} == {"/v1/models/{model}"}
