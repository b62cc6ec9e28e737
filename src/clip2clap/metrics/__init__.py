"""Metrics of embeddings, audio and images."""
