"""Networks of our own that checkpoints of pipelines and encoders are made of."""
