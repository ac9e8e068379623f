"""Decoders that read a key/value prefix, and the memory model built on them."""
