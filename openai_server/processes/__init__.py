"""Processes beside the server for work that holds the interpreter, or that hostile input may end.

They are separate programs, as gRPC does not survive a fork.
"""
