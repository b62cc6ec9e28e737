"""AudioCaps captions to CLIP and CLAP embeddings."""
