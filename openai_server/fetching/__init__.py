"""Fetches files from URLs that requests name: only from places that an option allows, and never from inside."""
