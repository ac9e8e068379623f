"""Gates of a memory: what a write stores, what a new text replaces, what an instruction takes back."""
