"""Extraction of a data set's embeddings into a table."""
