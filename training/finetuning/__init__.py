"""Fine-tuning of a CLIP's image encoder or a CLAP's audio encoder on files with labels."""
