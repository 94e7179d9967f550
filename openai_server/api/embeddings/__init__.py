"""`/v1/embeddings`: converts texts to vectors."""
