"""Real KServe v2 servers with scripted models, behind a real sidecar: `make test-foreign`.

- `setup.py` installs each server into an environment of its own, and `servers/` has what runs there;
- `engine.py` is the scripted model behind all of them;
- `backends.py` lists the backends, `bench.py` starts one of them with a sidecar in a network of their own;
- `checks.py` has the checks, `recorder.py` records what sidecar and server send each other.
"""
