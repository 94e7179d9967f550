"""Runs images in containers with crun, as docker-compose.yml describes its services, but without a Docker engine.

Needs a network namespace without other programs: the containers share it. Stricter than Docker in one point: there is
no /dev/shm, so that `tmpfs` of the service has all writable folders.
"""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START_S = 120.0
"""Seconds in which a container must become healthy."""
TMPFS_OPTIONS = ("noexec", "nosuid", "nodev", "mode=1777")
"""Docker's own, for the tmpfs of a service."""
IGNORED = {"build", "restart", "stop_grace_period", "ports", "depends_on"}
"""Keys of a service that have no counterpart in a container's configuration."""


def container_spec(
    image: Mapping[str, Any],
    service: Mapping[str, Any],
    root: Path,
    files: Mapping[str, Path],
    volumes: Path,
) -> dict[str, Any]:
    """The configuration of the OCI's runtime specification for an image and a service of Compose.

    `files` are bind mounts, by path in the container, read-only. `volumes` is the folder of named volumes, which are
    created there. Raises ValueError for a key that isn't supported.
    """
    supported = {"read_only", "tmpfs", "cap_drop", "security_opt", "command", "volumes"}
    if unknown := set(service) - supported - IGNORED:
        raise ValueError(f"containers.py does not support these keys of a service: {', '.join(sorted(unknown))}")
    if service.get("cap_drop") != ["ALL"]:
        raise ValueError("containers.py supports only services without capabilities")
    uid, gid = map(int, image["User"].split(":"))
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    ]
    mounts += [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": list(TMPFS_OPTIONS)}
        for path in service.get("tmpfs", ())
    ]
    mounts += [
        {"destination": path, "type": "bind", "source": str(source), "options": ["bind", "ro"]}
        for path, source in files.items()
    ]
    for volume in service.get("volumes", ()):
        name, path = volume.split(":")
        source = make_volume(volumes / name, root / path.lstrip("/"))
        mounts.append({"destination": path, "type": "bind", "source": str(source), "options": ["bind", "rw"]})
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": [*image["Entrypoint"], *service.get("command", image.get("Cmd") or [])],
            "env": image["Env"],
            "cwd": image.get("WorkingDir") or "/",
            "capabilities": {},
            "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", ()),
        },
        "root": {"path": str(root), "readonly": service.get("read_only", False)},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount")]},
    }


def make_volume(folder: Path, origin: Path) -> Path:
    """Returns a named volume, and creates it as Docker does: with owner and mode of the image's folder `origin`, which
    must be empty."""
    if not folder.exists():
        assert not list(origin.iterdir()), f"{origin} is not empty"
        folder.mkdir(parents=True)
        status = origin.stat()
        os.chown(folder, status.st_uid, status.st_gid)
        folder.chmod(status.st_mode)
    return folder


class Container:
    """A running container. `folder` holds its files; its output is in `folder`/NAME.log."""

    def __init__(self, folder: Path, name: str, image: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        self.name = name
        self._healthcheck: list[str] = image["Healthcheck"]["Test"][1:]
        self._crun = ("crun", f"--root={folder / 'crun'}", "--cgroup-manager=disabled")
        self._process_spec: Mapping[str, Any] = spec["process"]
        self._bundle = bundle = folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            command = [*self._crun, "run", f"--bundle={bundle}", name]
            self._runtime = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, with the user, environment and limits of its first process."""
        file = self._bundle / "process.json"
        file.write_text(json.dumps({**self._process_spec, "args": list(command)}))
        exec_command = [*self._crun, "exec", f"--process={file}", self.name]
        return subprocess.run(
            exec_command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )

    def healthy(self) -> bool:
        return self.run(self._healthcheck).returncode == 0

    def await_health(self) -> float:
        """Returns the seconds until the health check succeeds. Raises AssertionError after START_S, or if it ends."""
        started = time.monotonic()
        while not self.healthy():
            seconds = time.monotonic() - started
            assert self._runtime.poll() is None, f"{self.name} exited with {self._runtime.returncode}\n{self.tail()}"
            assert seconds < START_S, f"{self.name} is not healthy after {seconds:.0f} s\n{self.tail()}"
            time.sleep(0.2)
        return time.monotonic() - started

    def terminate(self) -> None:
        """Sends SIGTERM to its first process."""
        subprocess.run([*self._crun, "kill", self.name, "TERM"], check=True, timeout=10)

    def exit_status(self, timeout: float) -> int:
        """Waits up to `timeout` seconds. Raises AssertionError if it still runs then."""
        try:
            return self._runtime.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs {timeout:.0f} s after SIGTERM\n{self.tail()}") from None

    def tail(self) -> str:
        """The last lines of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- last output of {shlex.join(self._healthcheck[:3])}", *lines[-15:]])
