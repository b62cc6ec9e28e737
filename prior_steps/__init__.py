"""Runnable extraction: from a public dataset to paired embeddings."""
