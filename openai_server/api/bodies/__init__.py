"""Request bodies to validated requests, without holding the event loop: cheap ones at once, others in a process."""
