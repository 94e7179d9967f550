from pathlib import Path
from typing import Any

import pytest

from scripts.errors import Fail
from tests.packaging import image_builder, images
from tests.packaging.containers import container_spec, make_volume
from tests.packaging.test_docker import COMPOSE

IMAGE = {"User": "10001:10001", "Entrypoint": ["python"], "Cmd": ["--demo"], "Env": ["A=b"], "WorkingDir": ""}


def test_pip_uses_this_machines_indexes_in_the_images_too() -> None:
    listing = """\
:env:.index-url='https://one.example/simple'
global.cert='/etc/ssl/own.pem'
global.extra-index-url='\\nfile:///opt/simple\\nhttps://two.example/simple'
global.index-url='https://three.example/simple'
install.find-links='/opt/wheels'
"""
    assert image_builder.pip_options(listing) == {
        "extra-index-url": "https://two.example/simple",
        "index-url": "https://one.example/simple",
    }


def test_packages_come_from_this_machines_mirror() -> None:
    rows = ["http://own.example/security/ Debian-Security main", "http://own.example/debian/ Debian main"]
    assert image_builder.debian_mirror("\n".join(rows)) == "http://own.example/debian/"
    assert image_builder.debian_mirror("http://own.example/ubuntu/ Ubuntu main\n") == ""


def test_the_base_is_the_debian_of_the_official_image() -> None:
    assert image_builder.debian_suite("python:3.12-slim-trixie") == "trixie"
    with pytest.raises(Fail, match=r"got python:3\.12$"):
        image_builder.debian_suite("python:3.12")


@pytest.mark.parametrize("name", ["worker", "sidecar"])
def test_containers_are_as_confined_as_services(name: str, tmp_path: Path) -> None:
    service = COMPOSE["services"][name]
    root = tmp_path / "root-fs"
    (root / "data").mkdir(parents=True, mode=0o700)
    spec = container_spec(IMAGE, service, root, {"/etc/hosts": Path("/hosts")}, tmp_path / "volumes")
    process = spec["process"]
    assert process["args"] == ["python", *service.get("command", ["--demo"])]
    assert (process["user"], process["capabilities"]) == ({"uid": 10001, "gid": 10001}, {})
    assert process["noNewPrivileges"]
    assert spec["root"] == {"path": str(root), "readonly": True}
    kinds = {mount["destination"]: mount["type"] for mount in spec["mounts"]}
    volumes = {"/data": "bind"} if name == "sidecar" else {}
    assert kinds == {"/proc": "proc", "/dev": "tmpfs", "/tmp": "tmpfs", "/etc/hosts": "bind", **volumes}


def test_a_volume_has_owner_and_mode_of_the_images_folder_and_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    folder = make_volume(tmp_path / "volumes" / "store", tmp_path / "data")
    status, origin = folder.stat(), (tmp_path / "data").stat()
    assert (status.st_uid, status.st_gid, status.st_mode) == (origin.st_uid, origin.st_gid, origin.st_mode)
    (folder / "store.db").touch()
    assert (make_volume(folder, tmp_path / "data") / "store.db").exists()


@pytest.mark.parametrize("change", [{"privileged": True}, {"cap_drop": ["NET_RAW"]}])
def test_a_service_that_a_container_would_not_follow_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"containers\.py"):
        container_spec(IMAGE, {**COMPOSE["services"]["worker"], **change}, Path("/root-fs"), {}, Path("/volumes"))


def test_missing_tools_are_named_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: tool if tool == "buildah" else None)
    with pytest.raises(Fail, match=r"^not on PATH: debootstrap, crun \(.*: apt install buildah debootstrap crun\)$"):
        images.require_tools()
