"""Tokenizers of models whose backends can't tokenize: reads folders in Hugging Face's form, and converts texts to
tokens and back in this process."""
