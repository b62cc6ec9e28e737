"""Conceptual Captions' images and captions to CLIP and CLAP embeddings."""
