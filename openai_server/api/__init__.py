"""The endpoints: requests in, answers and events out."""
