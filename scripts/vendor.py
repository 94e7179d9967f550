"""Fetches the files of Swagger UI that the sidecar's reference page consists of, from its npm package.

    python -m scripts.vendor [--check]

It compares the package with its SHA-512 and writes its files to openai_server/api/docs/swagger-ui, unchanged except for
gzip, with a list of them in CycloneDX's form. `--check` compares the files with that list, and fetches nothing. For
another version, change SWAGGER_UI in openai_server/api/docs/paths.py, SHA512, and the paths in
page/index.html; then run `make test-browser`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from openai_server.api.docs.paths import SWAGGER_UI
from scripts import npm
from scripts.errors import Fail, run_main

FOLDER = Path(__file__).resolve().parent.parent / "openai_server" / "api" / "docs" / "swagger-ui"
PACKAGE = "swagger-ui-dist"
SHA512 = (
    "534eaba4cb56f55dd73c638179a993512af4674f63317e0826e00da44fc465b0"
    "21c341bc0a0c2bcd4e18997927fe1d3008336c5dd19aad334d1c2dec53cc9551"
)
COMPRESSED = ("swagger-ui-bundle.js", "swagger-ui.css")
PLAIN = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")
COMPONENTS = FOLDER / "swagger-ui.cdx.json"


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        check()
    else:
        vendor()
    return 0


def vendor() -> None:
    with tempfile.TemporaryDirectory() as folder:
        integrity = "sha512-" + base64.b64encode(bytes.fromhex(SHA512)).decode()
        with tarfile.open(npm.fetch(PACKAGE, SWAGGER_UI, integrity, Path(folder))) as archive:
            archive.extractall(folder, filter="data")
        files = {name: Path(folder, "package", name).read_bytes() for name in (*COMPRESSED, *PLAIN)}
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name in COMPRESSED:
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(files[name], 9, mtime=0))
    for name in PLAIN:
        (FOLDER / name).write_bytes(files[name])
    COMPONENTS.write_text(json.dumps(components(files), indent=2) + "\n")


def check() -> None:
    """Raises Fail if a file differs. Compares them decompressed: zlib's versions compress to different bytes."""
    files = {name: gzip.decompress((FOLDER / f"{name}.gz").read_bytes()) for name in COMPRESSED}
    files |= {name: (FOLDER / name).read_bytes() for name in PLAIN}
    if json.loads(COMPONENTS.read_text()) != components(files):
        raise Fail(f"openai_server/api/docs/swagger-ui is not {PACKAGE} {SWAGGER_UI}: run `python -m scripts.vendor`")


def components(files: dict[str, bytes]) -> dict[str, Any]:
    """The package and its files in CycloneDX's form, for the image's list of components."""
    parts = [
        {
            "type": "file",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        }
        for name, content in sorted(files.items())
    ]
    package = {
        "type": "library",
        "bom-ref": PACKAGE,
        "name": PACKAGE,
        "version": SWAGGER_UI,
        "description": "Swagger UI, with what its bundle contains; the licences of that are in the file beside it",
        "hashes": [{"alg": "SHA-512", "content": SHA512}],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "purl": f"pkg:npm/{PACKAGE}@{SWAGGER_UI}",
        "components": parts,
    }
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [package]}


if __name__ == "__main__":
    run_main(main)
