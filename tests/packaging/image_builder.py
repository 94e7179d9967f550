"""Builds targets of the Dockerfile with buildah, on a base image that debootstrap makes: no image registry is needed.

Package indexes and certificates are those of this machine. They are written into the base image, which is never kept.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.errors import Fail
from scripts.locks import locked, shared_cache
from tests.packaging.commands import ROOT
from tests.packaging.dockerfile import Stage, with_ancestors

BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
"""Options of this machine's pip that apply in the images' builds too."""
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
LLAMA_STAGE = "llama-cpp"


def pip_options(listing: str) -> dict[str, str]:
    """PIP_OPTIONS by name, from the output of `pip config list`. Values without an index on the network are left out.

    An environment variable has priority over a file.
    """
    found = re.findall(r"^(:env:|\w+)\.([\w-]+)='(.*)'$", listing, re.MULTILINE)
    options = {}
    for _, name, value in sorted(found, key=lambda row: row[0] == ":env:"):
        words = [word for word in value.replace("\\n", " ").split() if not word.startswith("file:")]
        if name in PIP_OPTIONS and words:
            options[name] = " ".join(words)
    return options


def debian_mirror(targets: str) -> str:
    """The first address of Debian's main archive, from lines of "address label component"; "" if there is none."""
    rows = [line.split() for line in targets.splitlines()]
    return next((row[0] for row in rows if row[1:] == ["Debian", "main"]), "")


def debian_suite(image: str) -> str:
    """The name of the Debian release in the tag of an official Python image."""
    match = re.search(r"-slim-([a-z]+)$", image)
    if not match:
        raise Fail(f"BASE_IMAGE must be tagged with a Debian release, like python:3.12-slim-trixie, got {image}")
    return match[1]


def megabytes(folder: Path) -> float:
    """Size of all files below the folder, in MB; a file with several links counts once."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(Path(parent, name))
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values()) / 1e6


class ImageBuilder:
    """Images in a storage of their own, below `folder`. The output of all commands goes to `log`."""

    def __init__(self, folder: Path, log: Path, stages: dict[str, Stage]) -> None:
        self._folder, self._log, self._stages = folder, log, stages
        self._suite = debian_suite(stages[""].arguments["BASE_IMAGE"])
        self._python = ""
        self._contexts: list[str] = []

    def make_base(self) -> None:
        """Raises Fail if a command fails, like the other methods."""
        root = self._folder / "base"
        packages = shared_cache("debian-packages")
        packages.mkdir(parents=True, exist_ok=True)
        fields = "$(REPO_URI) $(LABEL) $(COMPONENT)"
        mirror = debian_mirror(self._run("apt-get", "indextargets", "--format", fields, "Created-By: Packages"))
        self._run(
            *("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", f"--cache-dir={packages}"),
            *(self._suite, str(root), *([mirror] if mirror else [])),
        )
        (python,) = (root / "usr/lib").glob("python3.*")
        self._python = python.name
        # As in the official image: a command `python`, and a pip that may install beside it.
        (root / "usr/bin/python").symlink_to("python3")
        (python / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
        (root / "var/lib/apt/lists").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        found = ssl.get_default_verify_paths().cafile or Path("/", CERTIFICATES)
        if Path(found).is_file():
            shutil.copyfile(found, root / CERTIFICATES)
        options = pip_options(self._run("python3", "-m", "pip", "config", "list"))
        # pip can't uninstall Debian's own packages: they have no RECORD.
        lines = ["[global]", "ignore-installed = true", *(f"{name} = {value}" for name, value in options.items())]
        (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
        self._buildah("from", "--name", "base", "scratch")
        self._buildah("add", "base", str(root), "/")
        self._buildah("commit", "--format", "docker", "base", "localhost/base")
        self._buildah("rm", "base")
        shutil.rmtree(root)

    @property
    def base(self) -> str:
        """The base in words, once it is made."""
        return f"minimal Debian {self._suite} with Python {self._python.removeprefix('python')}"

    def compile_llama_cpp(self, *, again: bool) -> bool:
        """Returns False if an earlier run left the wheel in this user's cache. `again` replaces that wheel."""
        kept = shared_cache("wheels") / f"image-{self._wheel_key()}"
        with locked(kept.parent):
            compiled = again or not kept.is_dir()
            if compiled:
                self.build(LLAMA_STAGE)
                shutil.rmtree(kept, ignore_errors=True)
                new = self._folder / "wheel"
                shutil.copytree(self.mount(LLAMA_STAGE) / "wheels", new / "wheels")
                shutil.move(new, kept)
        self._replace_stage(kept)
        return compiled

    def take_llama_cpp(self, wheel: Path) -> None:
        """Installs this wheel instead of compiling one."""
        folder = self._folder / "wheel"
        (folder / "wheels").mkdir(parents=True)
        shutil.copy(wheel, folder / "wheels")
        self._replace_stage(folder)

    def build(self, target: str) -> None:
        packages = f"/opt/venv/lib/{self._python}/site-packages"
        arguments = ("--build-arg", "BASE_IMAGE=localhost/base", "--build-arg", f"PYTHON_PACKAGES={packages}")
        self._buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers"),
            # The other format has no HEALTHCHECK.
            *("--format", "docker", *arguments, *self._contexts, "--target", target, "--tag", f"localhost/{target}"),
            str(ROOT),
        )

    def mount(self, image: str) -> Path:
        """A container's root file system. Changes there don't reach the image."""
        container = self._buildah("from", f"localhost/{image}").strip()
        return Path(self._buildah("mount", container).strip())

    def configuration(self, image: str) -> dict[str, Any]:
        """Env, Entrypoint, Healthcheck and others, as the Dockerfile sets them."""
        inspected = json.loads(self._buildah("inspect", "--type", "image", f"localhost/{image}"))
        configuration: dict[str, Any] = inspected["Docker"]["config"]
        return configuration

    def _replace_stage(self, folder: Path) -> None:
        # A build context takes the place of the stage of its name.
        self._contexts = ["--build-context", f"{LLAMA_STAGE}={folder}"]

    def _buildah(self, *arguments: str) -> str:
        storage = ("--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run"))
        return self._run("buildah", *storage, "--storage-driver", "overlay", *arguments)

    def _run(self, *command: str) -> str:
        """Returns what the command writes to stdout."""
        started = time.monotonic()
        with self._log.open("a") as log:
            print("$", *command, file=log, flush=True)
            start = log.tell()
            process = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, check=False, cwd="/"
            )
            print(process.stdout, f"({time.monotonic() - started:.0f} s)", file=log)
        if process.returncode:
            lines = [line for line in self._log.read_bytes()[start:].decode(errors="replace").splitlines() if line]
            raise Fail("\n".join([f"{command[0]} exited with {process.returncode}:", *lines[-15:]]))
        return process.stdout

    def _wheel_key(self) -> str:
        """A hash of all that the wheel depends on, except the day's newest compiler in the Debian release."""
        stage = with_ancestors(self._stages, LLAMA_STAGE)
        parts = [self._suite, self._python, platform.machine(), repr(self._stages[""].arguments)]
        parts += [f"{word} {rest}" for word, rest in stage.instructions]
        files = [ROOT / "requirements" / f"{name}.txt" for name in ("build", "llama-cpp-python")]
        parts += _contents((*files, *sorted(_files(ROOT / "native"))))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _contents(files: Iterable[Path]) -> list[str]:
    return [part for file in files for part in (str(file.relative_to(ROOT)), file.read_text())]
