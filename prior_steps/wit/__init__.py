"""WIT's pictures and captions to CLIP and CLAP embeddings."""
