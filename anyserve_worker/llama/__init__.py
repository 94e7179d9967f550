"""llama.cpp: models, contexts and samplers. `native.py` alone imports llama_cpp."""
