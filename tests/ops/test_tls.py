"""The pair as processes, each of which wants to know who the other is."""

import sys
from pathlib import Path

from tests.certificates import Authority
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import SHORT, ask, get


def test_the_pair_over_mutual_tls(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    certificate, key = ca.issue("localhost", "localhost", "127.0.0.1")
    own, own_key = ca.issue("sidecar")
    serving = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(ca.file))
    asking = ("--backend-tls", "--backend-ca", str(ca.file))
    known = ("--backend-cert", str(own), "--backend-key", str(own_key))
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", "--n-ctx", "256", *serving) as (_, address),
        servers.sidecar(address, *asking, *known) as (_, url),
        servers.sidecar(address, *asking) as (_, stranger),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        for stream in (False, True):
            assert ask(url, SHORT | {"stream": stream}).good
        refused = ask(stranger, SHORT)
        assert refused.error is not None
        assert (refused.status, refused.error["code"]) == (503, "backend_unavailable")
        port = address.rpartition(":")[2]
        probe = servers.Process(
            sys.executable, "-m", "anyserve_worker", "--healthcheck", "--port", port, "--tls-cert", str(certificate)
        )
        assert probe.popen.wait(60) == 0
        probe.end()
