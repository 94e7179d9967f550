"""`/tokenize`, `/detokenize` and `/apply-template`: convert texts to tokens and back, and conversations to prompts."""
