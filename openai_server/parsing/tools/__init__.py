"""Calls of tools: one module for each format that models write them in."""
