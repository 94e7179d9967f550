import resource

import pytest

from anyserve_common.open_files import RESERVE, fitting, room_for

ANY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("asked", "soft", "hard", "connections", "soft_then"),
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
def test_what_fits(asked: int, soft: int, hard: int, connections: int, soft_then: int) -> None:
    assert fitting(asked, soft, hard) == (connections, soft_then)


def test_the_limit_of_this_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert room_for(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, before[1])
        assert room_for(200) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200 + RESERVE, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
