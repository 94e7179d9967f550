import pytest

from openai_server.backends.channel import channel_options, is_loopback


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3:8000", True),
        ("[::1]:8000", True),
        ("dns:///localhost:8000", True),
        ("unix:/tmp/s", True),
        ("worker:8000", False),
        ("10.0.0.1:8000", False),
        ("localhost.example.org:8000", False),
        ("dns:///worker:8000", False),
    ],
)
def test_only_a_loopback_target_bypasses_the_proxy(target: str, loopback: bool) -> None:
    assert is_loopback(target) == loopback
    assert (("grpc.enable_http_proxy", 0) in channel_options(target)) == loopback


def test_pings_to_other_servers_are_as_rare_as_grpcs_servers_demand() -> None:
    """A server that lasts five minutes between messages counts each earlier ping as a strike."""
    options = dict(channel_options("backend:1"))
    assert int(options["grpc.keepalive_time_ms"]) > 300_000
