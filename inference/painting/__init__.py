"""Optimization of an image towards CLIP embeddings."""
