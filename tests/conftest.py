"""Makes Hypothesis try the same examples in every run; `--hypothesis-profile=explore` tries more."""

from hypothesis import settings

collect_ignore = ["browser"]
"""Needs a browser: `make test-browser` names the folder."""

settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000, database=None)
settings.load_profile("same")
