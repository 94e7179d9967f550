"""The pair as processes, both of which need the other's certificate."""

import sys
from pathlib import Path

from tests.certificates import Authority
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import SHORT, get, post


def test_the_pair_works_over_mutual_tls(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    certificate, key = ca.issue("localhost", "localhost", "127.0.0.1")
    client_certificate, client_key = ca.issue("sidecar")
    worker_tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(ca.file))
    sidecar_tls = ("--backend-tls", "--backend-ca", str(ca.file))
    client_files = ("--backend-cert", str(client_certificate), "--backend-key", str(client_key))
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", "--n-ctx", "256", *worker_tls) as (_, address),
        servers.sidecar(address, *sidecar_tls, *client_files) as (_, url),
        servers.sidecar(address, *sidecar_tls) as (_, stranger),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        for stream in (False, True):
            assert post(url, SHORT | {"stream": stream}).good
        refused = post(stranger, SHORT)
        assert refused.error is not None
        assert (refused.status, refused.error["code"]) == (503, "backend_unavailable")
        port = address.rpartition(":")[2]
        probe = servers.Process(
            sys.executable, "-m", "anyserve_worker", "--healthcheck", "--port", port, "--tls-cert", str(certificate)
        )
        assert probe.popen.wait(60) == 0
        probe.end()
