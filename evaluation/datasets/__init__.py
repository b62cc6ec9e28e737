"""Audio and image data sets to evaluate pipelines on."""
