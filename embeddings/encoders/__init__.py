"""CLIP and CLAP encoders."""
