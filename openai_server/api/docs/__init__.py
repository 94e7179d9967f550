"""The reference page at `/docs`: an interactive form of `/openapi.json`, made by a bundled Swagger UI."""
