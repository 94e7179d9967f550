"""The samplers in llama.cpp's order: penalties, truncations, the draw. PURE."""
