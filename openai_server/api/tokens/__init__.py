"""`/tokenize`, `/detokenize` and `/apply-template`: tokens of texts, and prompts of conversations."""
