"""Alembic's migrations of the store.

An older sidecar keeps working on the tables of a newer one, since rolling updates run both. So a migration only adds:
tables, indexes, and columns that are nullable or have a default of the server. Nothing is renamed, removed or given
another meaning. A column that no version uses any more stays.

A new migration is a file in `versions/` with the next number as its revision, which is also REVISION in `tables.py`.
It runs in one transaction, while sidecars wait; so it must not rewrite a large table.
"""
