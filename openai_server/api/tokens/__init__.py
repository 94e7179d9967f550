"""`/tokenize`, `/detokenize`, `/apply-template` and `/v1/chat/completions/input_tokens`: convert texts to tokens and
back, and conversations to prompts and the number of their tokens."""
