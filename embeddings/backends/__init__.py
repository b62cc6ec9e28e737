"""Libraries that encoders are loaded with: transformers, open_clip, laion_clap."""
