"""Chooses the threads of each step, and finds the processors that this process may use."""
