"""llama.cpp: models, contexts and samplers. Only `native.py` imports llama_cpp."""
