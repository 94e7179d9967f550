import resource

import pytest

from anyserve_common.open_files import RESERVE, fitting, room_for

ANY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("requested", "soft", "hard", "connections", "new_soft"),
    [
        (100, 1024, 1024, 100, 1024),
        (1024 - RESERVE, 1024, 4096, 1024 - RESERVE, 1024),
        (4096, 1024, 1 << 20, 4096, 4096 + RESERVE),
        (4096, 1024, 2048, 2048 - RESERVE, 2048),
        (4096, 1024, ANY, 4096, 4096 + RESERVE),
        (4096, ANY, ANY, 4096, ANY),
        (4096, 64, 64, 1, 64),
    ],
)
def test_connections_and_soft_limit_fit_the_hard_limit(
    requested: int, soft: int, hard: int, connections: int, new_soft: int
) -> None:
    assert fitting(requested, soft, hard) == (connections, new_soft)


def test_the_limit_of_this_process_is_raised_when_needed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert room_for(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, before[1])
        assert room_for(200) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200 + RESERVE, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
