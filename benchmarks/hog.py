"""A neighbour that keeps one processor busy until it or its parent is ended, or its time is up.

python -m benchmarks.hog SECONDS SHARE
"""

import sys
import time

PERIOD_S = 0.1


def main(seconds: float, share: float) -> None:
    """Keeps the processor busy for `share` of each period."""
    print("busy", flush=True)
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        rest = now + PERIOD_S * share
        while time.monotonic() < rest:
            pass
        if share < 1:
            time.sleep(PERIOD_S * (1 - share))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
