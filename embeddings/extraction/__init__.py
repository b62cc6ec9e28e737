"""Extraction: from rows of a data set to a table of paired embeddings."""
