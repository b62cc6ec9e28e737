"""Recipe of the demo speech encoder: synthesized speech distilled into the demo CLIP's space."""
