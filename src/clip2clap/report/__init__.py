"""Self-contained HTML pages that norms, training, evaluation and the demo share."""
