"""`/v1/responses`: answers conversations in the form of OpenAI's Responses API."""
