"""Stored responses: `GET` and `DELETE /v1/responses/{response_id}`, and the items that they were generated from."""
