"""Encoders, the space an embedding lives in, and the table that stores embeddings."""
