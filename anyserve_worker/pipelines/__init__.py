"""Python pipelines and foreign HTTP APIs as models of the worker: each folder of a pipeline is run by a process of its
own, which answers chats with events."""
