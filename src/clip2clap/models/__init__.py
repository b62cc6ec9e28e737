"""Networks of our own: components of pipelines and encoders."""
