"""Import rules of the architecture, checked on the source without running it."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protos", "anyserve_common", "openai_server", "anyserve_worker")
STUBS = ("protos.grpc_predict_v2_pb2", "protos.grpc_predict_v2_pb2_grpc")
GENERATION = ("openai_server", "anyserve_worker")

IMPURE = ("socket", "time", "threading", "asyncio", "queue", "multiprocessing", "subprocess", "llama_cpp", "llguidance")
"""Sockets, clocks, threads, models. Channels are `grpc`, from which a pure module may import only `StatusCode`."""
PURE = (
    "anyserve_common.text",
    "protos.contract",
    "protos.tensors",
    "anyserve_common.trace_context",
    "protos.literals",
    "openai_server.api.schemas",
    "openai_server.api.schemas_tasks",
    "openai_server.core",
    *(
        f"openai_server.store.{module}"
        for module in (
            *("arriving", "batch_records", "errors", "fairness", "file_records", "fitting", "ids", "records"),
            *("settings", "url"),
        )
    ),
    "openai_server.jobs.lease",
    *(
        f"openai_server.api.responses.background.{module}"
        for module in ("event_log", "queued_request", "recorder", "replay")
    ),
    "openai_server.backends.affinity",
    "openai_server.backends.dialects",
    "openai_server.backends.metadata",
    "openai_server.backends.model_settings",
    "openai_server.api.answers",
    "openai_server.api.usage",
    "openai_server.api.examples",
    "openai_server.api.in_tier",
    "openai_server.api.model_in_path",
    "openai_server.api.prompt_estimate",
    "openai_server.api.query",
    "openai_server.api.sealed_items",
    "openai_server.api.bodies.cost",
    "openai_server.api.bodies.frames",
    "openai_server.api.bodies.parsers",
    *(
        f"openai_server.api.{family}.{module}"
        for family in ("completions", "chat", "embeddings", "rerank", "tokens")
        for module in ("request", "answer")
    ),
    *(
        f"openai_server.api.responses.{module}"
        for module in ("answer", "errors", "input", "output", "request", "settings", "stored_view")
    ),
    *(f"openai_server.api.responses.retrieval.{module}" for module in ("answer", "parameters", "query")),
    *(f"openai_server.api.conversations.{module}" for module in ("answer", "request")),
    "openai_server.api.file_limits",
    *(f"openai_server.api.files.{module}" for module in ("answer", "disposition", "form", "ranges", "request")),
    *(f"openai_server.api.uploads.{module}" for module in ("answer", "request")),
    *(f"openai_server.api.batches.{module}" for module in ("answer", "check_frames", "checking", "request")),
    "openai_server.api.models.answer",
    "openai_server.api.models.anthropic",
    "openai_server.api.health.answer",
    "openai_server.http.sse",
    "openai_server.http.router",
    "openai_server.api.answer_stream",
    "openai_server.api.reporting_stream",
    "openai_server.api.timings",
    "openai_server.api.collected_answer",
    "openai_server.api.logprobs",
    "openai_server.api.chunk_writer",
    "openai_server.api.client_api",
    "openai_server.api.stream_writer",
    *(
        f"openai_server.api.{family}.{module}"
        for family in ("completions", "chat")
        for module in ("whole", "writer", "logprobs")
    ),
    "openai_server.api.chat.message",
    *(
        f"openai_server.api.messages.{module}"
        for module in (
            *("answer", "blocks", "conversation", "ending", "errors", "fields", "request", "schema", "tools", "whole"),
            "writer",
        )
    ),
    "openai_server.api.within_caps",
    "openai_server.api.documents",
    *(f"openai_server.api.prompt_files.{name}" for name in ("cache", "data", "settings")),
    "openai_server.telemetry.load",
    "openai_server.telemetry.request_start",
    "openai_server.telemetry.vllm_names",
    "openai_server.api.docs.paths",
    *(
        f"openai_server.prompting.{name}"
        for name in (
            *(
                "answer_guide",
                "capabilities",
                "continuation",
                "fitting",
                "functions",
                "limits",
                "markup",
                "messages",
                "plain_fields",
                "plan",
            ),
            *("sandbox", "source", "template"),
        )
    ),
    "openai_server.parsing",
    *(f"openai_server.tokenizing.{name}" for name in ("chunks", "plain", "spelling")),
    *(f"openai_server.extraction.{name}" for name in ("errors", "frames", "kinds")),
    *(f"openai_server.fetching.{name}" for name in ("addresses", "errors", "urls")),
    "openai_server.access.admission",
    "openai_server.access.caps",
    "openai_server.access.cors",
    "openai_server.http.framing",
    "openai_server.access.keys",
    "openai_server.access.rates",
    "openai_server.access.tier_limits",
    "anyserve_worker.core",
    "anyserve_worker.text",
    "anyserve_worker.sampling",
    "anyserve_worker.scheduling",
    "anyserve_worker.threads.chooser",
    "anyserve_worker.threads.phase",
    "anyserve_worker.threads.shape",
    "anyserve_worker.threads.step_times",
    "anyserve_worker.guides.memory",
    "anyserve_worker.guides.queue",
    "anyserve_worker.guides.errors",
    "anyserve_worker.guides.lenient",
    "anyserve_worker.engine.stats",
    "anyserve_worker.service.request",
    "anyserve_worker.service.responder",
    "anyserve_worker.service.step_batch",
    "anyserve_worker.service.tasks",
    "anyserve_worker.llama.constants",
    "anyserve_worker.pipelines.core",
    *(
        f"anyserve_worker.pipelines.wrappers.{name}"
        for name in ("answer_reader", "arguments", "client_errors", "pieces")
    ),
    *(
        f"anyserve_worker.pipelines.upstream.{module}"
        for module in ("counts", "failures", "framing", "scrubbing", "settings", "tool_calls")
    ),
    *(f"anyserve_worker.pipelines.openai_api.{module}" for module in ("model_names", "reader", "request")),
    *(
        f"anyserve_worker.pipelines.{name}"
        for name in ("errors", "limits", "toml_errors", "waiting_line", "host.requests")
    ),
    "anyserve_worker.service.pipeline_responses",
    "anyserve_worker.telemetry.ended_request",
    *(
        f"anyserve_worker.pipelines.http_api.{module}"
        for module in (
            *("api_errors", "conversations", "mappings", "paths", "prompts", "reader", "requests", "schema"),
            "templates",
        )
    ),
)
"""A package stands for all of its modules."""


def imports(source: str) -> set[str]:
    """Returns the dotted names that a module imports, wherever in it; `from a import b` is `a.b`. Relative imports keep
    their dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    return names


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def modules(*packages: str) -> dict[str, set[str]]:
    """Returns imports by module, for everything in these packages or modules except the generated stubs."""
    return {name: imported for name, imported in all_modules().items() if within(name, packages)}


@cache
def all_modules() -> dict[str, set[str]]:
    paths = {path: path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
    names = {path: ".".join(relative.with_suffix("").parts) for path, relative in paths.items()}
    return {
        name.removesuffix(".__init__"): imports(path.read_text()) for path, name in names.items() if name not in STUBS
    }


def test_imports_are_found_anywhere_in_a_module() -> None:
    source = "import a.b as c\nfrom d.e import f, g\nfrom . import h\ndef late():\n    if True:\n        import i\n"
    assert imports(source) == {"a.b", "d.e.f", "d.e.g", "..h", "i"}


def test_all_packages_are_found() -> None:
    found = modules(*PACKAGES)
    assert {"protos.tensors", "openai_server.prompting.template", "anyserve_worker.engine.engine"} <= found.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute(package: str) -> None:
    for module, imported in modules(package).items():
        assert not [name for name in imported if name.startswith(".")], module


@pytest.mark.parametrize("package", ["protos", "anyserve_common"])
def test_packages_that_both_programs_share_import_neither(package: str) -> None:
    for module, imported in modules(package).items():
        forbidden = [name for name in imported if within(name, (*GENERATION, "tests", "scripts", "native"))]
        assert not forbidden, module


@pytest.mark.parametrize(("package", "other_package"), [GENERATION, GENERATION[::-1]])
def test_sidecar_and_worker_do_not_import_each_other(package: str, other_package: str) -> None:
    for module, imported in modules(package).items():
        assert not [name for name in imported if within(name, (other_package,))], module


@pytest.mark.parametrize("package", PACKAGES)
def test_the_product_does_not_import_its_tests_or_scripts(package: str) -> None:
    for module, imported in modules(package).items():
        assert not [name for name in imported if within(name, ("tests", "scripts", "native"))], module


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("llama_cpp", {"anyserve_worker.llama.native"}),
        ("llguidance", {"anyserve_worker.guides.translation", "anyserve_worker.guides.matcher"}),
        ("tokenizers", {"openai_server.tokenizing.local"}),
        ("pypdf", {"openai_server.extraction.pdf"}),
        ("python_multipart", {"openai_server.api.files.form"}),
        ("bs4", {"openai_server.extraction.html"}),
        ("httpx", {"anyserve_worker.pipelines.upstream.client", "openai_server.fetching.fetcher"}),
        ("opentelemetry", {f"{p}.tracing" for p in ("anyserve_common", *(f"{g}.telemetry" for g in GENERATION))}),
        (
            "prometheus_client",
            {
                *(
                    f"openai_server.telemetry.{name}"
                    for name in ("load", "metrics", "processes", "sharing", "store_metrics", "vllm_names")
                ),
                "anyserve_worker.telemetry.metrics",
            },
        ),
    ],
)
def test_a_library_is_only_imported_by_its_wrappers(library: str, users: set[str]) -> None:
    importers = {m for m, imported in modules(*PACKAGES).items() if any(within(name, (library,)) for name in imported)}
    assert importers == users


def test_only_the_store_imports_the_libraries_of_databases() -> None:
    libraries = ("sqlalchemy", "alembic", "asyncpg", "greenlet", "sqlite3")
    users = {m for m, imported in modules(*PACKAGES).items() if any(within(name, libraries) for name in imported)}
    assert users
    assert not [user for user in users if not within(user, ("openai_server.store",))]
    for module in ("blob_folder", "blobs", "errors", "records", "settings", "store", "stowing", "url"):
        assert f"openai_server.store.{module}" not in users


def test_only_some_modules_use_grpc_in_the_sidecar() -> None:
    users = {module for module, imported in modules("openai_server").items() if uses_grpc(imported)}
    assert users == {f"openai_server.backends.{name}" for name in ("calls", "channel", "failures", "lookups")}


def uses_grpc(imported: set[str]) -> bool:
    stubs = any(within(name, (STUBS[1],)) for name in imported)
    return stubs or any(within(name, ("grpc",)) and name != "grpc.StatusCode" for name in imported)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_exist_and_are_pure(name: str) -> None:
    imports_by_module = modules(name)
    assert imports_by_module
    for module, imported in imports_by_module.items():
        assert not [name for name in imported if within(name, IMPURE)], module
        assert not uses_grpc(imported), module


# ---- Floors of the sidecar

SHARED_PARTS = ("access", "http", "telemetry")
"""Packages beside the floors, which everything above `core` may use."""
FLOORS: dict[str, tuple[str, ...]] = {
    "core": (),
    **dict.fromkeys(SHARED_PARTS, ("core",)),
    "backends": ("core",),
    "parsing": ("core",),
    "tokenizing": ("core",),
    "store": ("core",),
    "processes": (),
    "extraction": ("core", "access", "processes"),
    "fetching": ("core", "access"),
    "prompting": ("core", "backends", "parsing"),
    "api": (
        *("core", "backends", "parsing", "prompting", "store", "jobs", "tokenizing", "extraction", "fetching"),
        *("processes", *SHARED_PARTS),
    ),
    "app": ("core", "backends", "parsing", "prompting", "store", "jobs", "tokenizing", *SHARED_PARTS, "api", "config"),
    "jobs": ("core", "store"),
    "config": ("core", *SHARED_PARTS),
    "health_check": ("config",),
    "store_options": ("config", "store"),
    "prompt_file_options": ("config", "fetching"),
    "cli": (
        "core",
        "config",
        "health_check",
        "check",
        "backends",
        "store_options",
        "prompt_file_options",
        "tokenizing",
        *SHARED_PARTS,
    ),
    "check": ("core", "backends", "tokenizing", "config", "app", "serving"),
    "serving": ("core", "backends", "store", "tokenizing", *SHARED_PARTS, "config", "app"),
    "worker_process": ("config", "http", "serving"),
    "__main__": ("cli", "config", "prompting", *SHARED_PARTS, "serving"),
}
"""Parts of the sidecar that each part may import. All may import protos and anyserve_common."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("access.options", "config"): "command-line options are defined beside the settings that they set",
}
"""Imports that the floors don't allow, each with its reason. This list may only shrink."""


def part_of(module: str) -> str:
    """Returns the part of the sidecar that contains the module."""
    return module.split(".")[1] if "." in module else ""


def test_the_sidecars_imports_follow_its_floors() -> None:
    imports_by_module = modules("openai_server")
    parts = {part_of(module) for module in imports_by_module} - {""}
    assert parts == FLOORS.keys()
    above = set()
    for module, imported in imports_by_module.items():
        part = part_of(module)
        for name in imported:
            other_part = part_of(name) if within(name, ("openai_server",)) else part
            if other_part in parts - {part, *FLOORS.get(part, ())}:
                above.add((module.removeprefix("openai_server."), other_part))
    assert above == EXCEPTIONS.keys()


@pytest.mark.parametrize("module", modules("openai_server.core"))
def test_the_core_imports_only_the_contract(module: str) -> None:
    allowed = ("openai_server.core", "protos.contract", "anyserve_common.text")
    other_imports = {name for name in modules(module)[module] if within(name, PACKAGES) and not within(name, allowed)}
    assert other_imports == ({"protos.tensors.Packed"} if module == "openai_server.core.turn" else set())


# ---- Floors of the worker


def test_pure_modules_of_the_worker_import_only_pure_ones() -> None:
    """A pure module must not reach a clock through another module of ours."""
    for module, imported in modules(*(name for name in PURE if name.startswith("anyserve_worker."))).items():
        own_imports = {name for name in imported if within(name, ("anyserve_worker", "anyserve_common"))}
        assert not [name for name in own_imports if not within(name, PURE)], module


FLOORS_OF_THE_WORKER: dict[str, tuple[str, ...]] = {
    "core": (),
    "threads": ("core",),
    "text": ("core",),
    "sampling": ("core",),
    "scheduling": ("core", "text"),
    "guides": ("core", "sampling"),
    "llama": ("core", "sampling", "text", "scheduling", "guides"),
    "engine": ("core", "threads", "sampling", "text", "scheduling", "guides"),
    "pipelines": ("core",),
    "telemetry": ("core", "engine.stats", "engine.running_request"),
    "service": ("core", "threads", "sampling", "scheduling", "llama", "engine", "pipelines", "telemetry"),
    "cli": ("core", "threads", "scheduling", "service"),
    "__main__": ("core", "llama", "pipelines", "service", "cli"),
}
"""The parts that each folder or module of the worker may import besides itself: only ones that are above it here.

The service passes the model (`llama`) to the engine. Telemetry is beside the service and imports what it measures.
"""


def test_the_worker_has_these_floors() -> None:
    floors = list(FLOORS_OF_THE_WORKER)
    for floor, below in FLOORS_OF_THE_WORKER.items():
        assert {name.partition(".")[0] for name in below} <= set(floors[: floors.index(floor)]), floor
    parts = {module.split(".")[1] for module in modules("anyserve_worker") if "." in module}
    assert parts == set(floors)


@pytest.mark.parametrize("floor", FLOORS_OF_THE_WORKER)
def test_no_import_of_the_worker_points_upward(floor: str) -> None:
    below = [f"anyserve_worker.{name}" for name in (floor, *FLOORS_OF_THE_WORKER[floor], "__version__")]
    for module, imported in modules(f"anyserve_worker.{floor}").items():
        own_imports = {name for name in imported if within(name, ("anyserve_worker",))}
        assert not [name for name in own_imports if not within(name, below)], module
