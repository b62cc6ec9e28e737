"""Recipe of the demo captioners: one small language model, and a mapper for each demo encoder."""
