"""Turns request bodies into validated requests: cheap ones in the event loop, expensive ones in a helper process."""
