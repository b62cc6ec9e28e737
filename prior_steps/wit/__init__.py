"""WIT's images and captions to CLIP and CLAP embeddings."""
