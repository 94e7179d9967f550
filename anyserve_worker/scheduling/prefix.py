"""Compares the prefixes of two sequences. PURE."""

from array import array

from anyserve_worker.core.prefix_key import PrefixKey


def shared_prefix(a: "array[int]", a_key: PrefixKey, b: "array[int]", b_key: PrefixKey) -> int:
    """Returns how many first tokens of two sequences can share KV cells."""
    n = common_prefix(a, b)
    return n if a_key is b_key else min(n, a_key.shared_length(b_key))


def common_prefix(a: "array[int]", b: "array[int]") -> int:
    """Returns the length of the longest common prefix. Compares slices, which arrays do in C."""
    low, high = 0, min(len(a), len(b))
    step = 16
    while low < high:
        end = min(low + step, high)
        if a[low:end] == b[low:end]:
            low, step = end, step * 2
        elif end - low == 1:
            break
        else:
            # The first difference lies in [low, end).
            high, step = end - 1, (end - low) // 2
    return low
