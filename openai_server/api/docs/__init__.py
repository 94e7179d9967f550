"""The reference page at `/docs`, which shows `/openapi.json` with a bundled Swagger UI."""
