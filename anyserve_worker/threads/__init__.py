"""How many threads a step gets, and how many processors this process may use."""
