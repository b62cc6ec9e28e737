"""Loading of pipelines: checkpoint formats, components and their weights."""
