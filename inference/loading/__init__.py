"""Loading of pipeline components from checkpoints."""
