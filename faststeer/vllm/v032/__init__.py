"""The private names of vLLM 0.32: all that faststeer replaces or calls there is in this folder."""
