"""Builds every image but CUDA's without a Docker engine, and runs the pair from them as docker-compose.yml does.

    make images [IMAGES_ARGS=--compile or --quick]

The base is a Debian that debootstrap makes, in place of the official Python image. Containers run as user 10001 with a
read-only root file system and only /tmp and the volumes of docker-compose.yml writable. Checked are the packages listed
in each image, its size, health, a response, and that a stream ends properly when its server gets SIGTERM.

CI doesn't run it: it needs root, Linux, and Debian's packages buildah, crun and debootstrap, and it takes minutes. The
first run compiles llama.cpp in the Dockerfile's stage; its wheel is kept in the user's cache. `--compile` compiles it
again. `--quick` compiles nothing: it takes the wheel of `make setup`, which is for this machine's processor only.
Everything else is in a temporary folder and in namespaces that end with this process. The output of commands is in
.cache/images.log.
"""

import argparse
import ctypes
import fcntl
import http.client
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from scripts import children, setup
from scripts.errors import Fail, run_main
from scripts.locks import shared_cache
from tests.packaging.commands import ROOT
from tests.packaging.containers import Container, container_spec
from tests.packaging.dockerfile import read_stages
from tests.packaging.image_builder import ImageBuilder, megabytes

MAX_ADDED_MB = {"sidecar": 105, "worker": 230, "worker-demo": 330}
"""The images that are built, with the maximum size that each adds to the base, in MB."""
TOOLS = ("buildah", "debootstrap", "crun")
LOG = ROOT / ".cache" / "images.log"
PORT = 8080
HOSTS = "127.0.0.1 localhost worker sidecar\n::1 localhost\n"
STREAM_TOKENS = 400
MIN_TOKENS_AFTER_SIGTERM = 50
"""A stream with fewer may have ended before the signal arrived."""
CONFINEMENT = """
import json, os
status = dict(line.strip("\\n").split(":\\t", 1) for line in open("/proc/1/status"))
folders = (folder for folder, _, _ in os.walk("/") if not folder.startswith("/proc"))
print(json.dumps({
    "users": sorted({*status["Uid"].split(), *status["Gid"].split()}),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no new privileges": status["NoNewPrivs"],
    "read-only root": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    "writable": [folder for folder in folders if os.access(folder, os.W_OK)],
}))
"""
CONFINED = {
    "users": ["10001"],
    "capabilities": 0,
    "no new privileges": "1",
    "read-only root": True,
    "writable": ["/tmp"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile llama.cpp even if the wheel is in the cache")
    parser.add_argument("--quick", action="store_true", help="take llama.cpp's wheel from `make setup`")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    children.stop_on_signals()
    if arguments.inside:
        build_and_check(arguments.inside, quick=arguments.quick, compile_again=arguments.compile)
        return 0
    require_tools()
    folder = Path(tempfile.mkdtemp(prefix="anyserve-images-"))
    # Mounts and processes end with these namespaces, even if this process is killed.
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    own = [sys.executable, "-m", __spec__.name, "--inside", str(folder), *sys.argv[1:]]
    process = children.start([*namespaces, *own])
    try:
        return process.wait()
    finally:
        children.end([process])
        shutil.rmtree(folder)


def require_tools() -> None:
    """Raises Fail if something is missing, with the command that installs it."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise Fail("images are built here without Docker only by root on Linux: buildah and crun mount file systems")
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise Fail(f"not on PATH: {', '.join(missing)} (Debian, Ubuntu: apt install {' '.join(TOOLS)})")


def build_and_check(folder: Path, *, quick: bool, compile_again: bool) -> None:
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    print(f"building; the log is {LOG.relative_to(ROOT)}", flush=True)
    started = time.monotonic()
    builder = ImageBuilder(folder, LOG, read_stages(ROOT / "Dockerfile"))
    with step("base"):
        builder.make_base()
    with step("llama.cpp"):
        if quick:
            builder.take_llama_cpp(wheel_of_setup())
            origin = (
                "compiled by `make setup` for this processor only: the worker's sizes are not those of the real image"
            )
        else:
            compiled = builder.compile_llama_cpp(again=compile_again)
            origin = "compiled" if compiled else "compiled by an earlier run"
    print(f"  {origin}")
    roots = {}
    for target in MAX_ADDED_MB:
        with step(target):
            builder.build(target)
        roots[target] = builder.mount(target)
    try:
        check_contents(builder, roots)
        isolate()
        check_pair(builder, folder, roots)
    except AssertionError as error:
        raise Fail(f"{error}") from error
    print(f"all passed in {time.monotonic() - started:.0f} s")


def wheel_of_setup() -> Path:
    wheels = shared_cache("wheels") / setup.read_stamp().get("llama_wheel", "none")
    found = next(wheels.glob("llama_cpp_python-*.whl"), None)
    if not found:
        raise Fail("--quick needs the wheel that `make setup` compiles; it is not in the cache")
    return found


@contextmanager
def step(name: str) -> Iterator[None]:
    """Prints how long the block took."""
    started = time.monotonic()
    yield
    print(f"{name:12} {time.monotonic() - started:4.0f} s", flush=True)


# ---- Contents of the images


def check_contents(builder: ImageBuilder, roots: dict[str, Path]) -> None:
    base = megabytes(builder.mount("base"))
    print(f"sizes on {builder.base}, {base:.0f} MB:")
    for target, root in roots.items():
        listed = check_sbom(root)
        added = megabytes(root) - base
        print(f"  {target:12} adds {added:4.0f} MB, {listed} Python packages listed", flush=True)
        assert added <= MAX_ADDED_MB[target], f"{target} may add at most {MAX_ADDED_MB[target]} MB"
    assert (roots["sidecar"] / "usr/share/sbom/swagger-ui.cdx.json").is_file(), (
        "the list of the page's files is missing"
    )


def check_sbom(root: Path) -> int:
    """Returns the number of packages in the image's list, which must be those in its environment."""
    (packages,) = (root / "opt/venv/lib").glob("python3.*/site-packages")
    installed = {(found.name, found.version) for found in metadata.distributions(path=[str(packages)])}
    sbom = json.loads((root / "usr/share/sbom/python.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    components = [*sbom["components"], sbom["metadata"]["component"]]
    listed = {(component["name"], component["version"]) for component in components if "version" in component}
    own = {row for row in installed if row[0] == sbom["metadata"]["component"]["name"]}
    assert listed | own == installed, f"list and environment differ: {sorted((listed | own) ^ installed)}"
    return len(listed)


# ---- The pair


def isolate() -> None:
    """Moves this process, and those that it starts, into a network of its own with only loopback addresses."""
    # crun refuses to run beside both versions of cgroups. In this mount namespace, it finds only one.
    subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=True)
    new_network = 0x40000000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_network):
        raise Fail(f"can't create a network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as control:
        set_flags, loopback_and_up = 0x8914, 0x49
        fcntl.ioctl(control, set_flags, struct.pack("16sH22x", b"lo", loopback_and_up))


def check_pair(builder: ImageBuilder, folder: Path, roots: dict[str, Path]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (folder / "hosts").write_text(HOSTS)
    (folder / "containers").mkdir()
    grace_s = float(compose["sidecar"]["stop_grace_period"].removesuffix("s"))

    def start(
        name: str, target: str, service: dict[str, Any], files: dict[str, Path], command: list[str] | None = None
    ) -> Container:
        image = builder.configuration(target)
        service = {**service, "command": command} if command else service
        files = {"/etc/hosts": folder / "hosts", **files}
        spec = container_spec(image, service, roots[target], files, folder / "volumes")
        container = Container(folder / "containers", name, image, spec)
        print(f"  {name}: healthy after {container.await_health():.1f} s", flush=True)
        check_confinement(container, [volume.split(":")[1] for volume in service.get("volumes", ())])
        return container

    def stop(container: Container) -> None:
        container.terminate()
        expect_end(container, grace_s)

    print("the pair as docker-compose.yml starts it:")
    worker = start("worker-demo", compose["worker"]["build"]["target"], compose["worker"], {})
    sidecar = start("sidecar", compose["sidecar"]["build"]["target"], compose["sidecar"], {})
    print(f"  response to 'Hi': {greeting()!r}")
    stream_through_drain(sidecar, grace_s)
    stop(worker)
    print("the worker's image without a model, with one mounted at /models:")
    (model,) = (roots["worker-demo"] / "models").glob("*.gguf")
    worker = start(
        "worker", "worker", compose["worker"], {"/models": model.parent}, ["--model", f"/models/{model.name}"]
    )
    sidecar = start("sidecar-2", "sidecar", compose["sidecar"], {})
    stream_through_drain(worker, grace_s)
    assert not sidecar.healthy(), "the sidecar is healthy without a worker"
    stop(sidecar)


def check_confinement(container: Container, volumes: Sequence[str]) -> None:
    """`volumes`: folders that may be written, besides /tmp, with all that is in them. Raises AssertionError."""
    expected = {**CONFINED, "writable": sorted(["/tmp", *volumes])}
    result = container.run(["python", "-c", CONFINEMENT])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    writable = map(Path, found["writable"])
    found["writable"] = sorted({next((v for v in volumes if path.is_relative_to(v)), str(path)) for path in writable})
    assert found == expected, f"{container.name} runs with {found}, expected {expected}"


def expect_end(container: Container, grace_s: float) -> None:
    """Waits for a container that has got SIGTERM. Raises AssertionError if its exit status isn't 0."""
    started = time.monotonic()
    status = container.exit_status(grace_s)
    assert status == 0, f"{container.name} exited with {status} after SIGTERM\n{container.tail()}"
    print(f"  {container.name}: exit status 0, {time.monotonic() - started:.1f} s after SIGTERM", flush=True)


def greeting() -> str:
    """Returns the text of one response. Raises AssertionError if the model didn't return the greeting."""
    with post(content="Hi", temperature=0, max_tokens=32) as response:
        body = json.loads(response.read())
    text: str = body["choices"][0]["message"]["content"]
    assert "Hello" in text, f"the model answered {text!r}"
    return text


def stream_through_drain(server: Container, grace_s: float) -> None:
    """Sends SIGTERM to a server of the pair while a response streams. Raises AssertionError if its end is missing."""
    with post(
        content="Tell me a long story.", stream=True, max_tokens=STREAM_TOKENS, ignore_eos=True, temperature=0
    ) as response:
        events = server_sent_events(response)
        before = 0
        while before < 3:
            next(events)
            before += 1
        server.terminate()
        after = list(events)
    assert after[-1:] == ["[DONE]"], f"the stream ended with {after[-1:]}"
    reasons = [choice["finish_reason"] for event in after[:-1] for choice in json.loads(event)["choices"]]
    assert reasons[-1:] == ["length"], f"the stream ended with the finish reason {reasons[-1:]}"
    assert len(after) > MIN_TOKENS_AFTER_SIGTERM, f"only {len(after)} events came after SIGTERM"
    print(f"  stream: ended properly, {before} events before and {len(after)} after {server.name} got SIGTERM")
    expect_end(server, grace_s)


@contextmanager
def post(*, content: str, **fields: Any) -> Iterator[http.client.HTTPResponse]:
    """A chat request to the sidecar, and its response. Raises AssertionError unless its status is 200."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = {"messages": [{"role": "user", "content": content}], **fields}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, f"status {response.status}: {response.read()!r}"
        yield response
    finally:
        connection.close()


def server_sent_events(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each event."""
    for line in response:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode().rstrip()


if __name__ == "__main__":
    run_main(main)
