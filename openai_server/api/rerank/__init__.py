"""`/v1/rerank`: documents ordered by a query."""
