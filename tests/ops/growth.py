"""Limits on the growth of memory and sizes in a soak. PURE."""

from collections.abc import Sequence

MIB = 1 << 20
GROWTH_MIB = 8.0
"""Growth of a sidecar over the second half, along the line that fits its samples best."""
SIZE_GROWTH = 1.25
"""Largest size in the last quarter, compared with the second one."""
SLACK_MIB = 8.0
"""Difference of these sizes that counts as none."""


def growth(values: Sequence[float]) -> float:
    """Growth over these values along the line that fits them best."""
    n = len(values)
    middle, mean = (n - 1) / 2, sum(values) / n
    slope = sum((x - middle) * (value - mean) for x, value in enumerate(values)) / sum(
        (x - middle) ** 2 for x in range(n)
    )
    return slope * (n - 1)


def second_half(values: Sequence[float]) -> Sequence[float]:
    return values[len(values) // 2 :]


def problems_of_memory(memory: Sequence[float], limit_mib: float) -> list[str]:
    half = second_half(memory)
    if (grown := growth(half)) > limit_mib:
        return [f"memory grows by {grown:.1f} MiB in the second half, from {half[0]:.1f} to {half[-1]:.1f}"]
    return []


def problems_of_size(name: str, sizes: Sequence[float]) -> list[str]:
    quarter = len(sizes) // 4
    second, last = max(sizes[quarter : 2 * quarter]), max(sizes[-quarter:])
    if last > SIZE_GROWTH * second + SLACK_MIB:
        return [f"the {name} grows from {second:.1f} to {last:.1f} MiB"]
    return []
