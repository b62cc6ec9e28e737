"""Conceptual Captions' pictures and captions to CLIP and CLAP embeddings."""
