"""Certificate authorities for tests."""

import os
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass
class Authority:
    """Issues certificates, as PEM files in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self._ca = trustme.CA()
        self.folder.mkdir()
        self.file = self.folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Returns the paths of the certificate and its key."""
        issued = self._ca.issue_cert(*(hosts or (name,)))
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        # Each file is replaced in one step, as certificate renewals do.
        for pem, path in (
            (b"".join(blob.bytes() for blob in issued.cert_chain_pems), certificate),
            (issued.private_key_pem.bytes(), key),
        ):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(pem)
            os.replace(fresh, path)
        return certificate, key
