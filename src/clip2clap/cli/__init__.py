"""Command-line verbs, one per module; slow imports are inside the verbs."""
