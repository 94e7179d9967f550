"""`/v1/rerank`: orders documents by their relevance to a query."""
