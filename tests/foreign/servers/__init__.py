"""The code that runs in the foreign servers. Each module is imported in the environment of its server, so it imports
nothing of this project but `tests.foreign.engine`, which needs only Python's standard library."""
