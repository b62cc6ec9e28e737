"""Histograms of the norms of a table's embeddings: `clip2clap norms`.

python prior_steps/audiocaps/histogram.py [TABLE] [OPTIONS]

Without arguments it reads the table that embedding_CLAP.py writes for the training split.
"""

import sys

from clip2clap.cli.app import main

if __name__ == "__main__":
    main(["norms", *(sys.argv[1:] or ["audiocaps-train"])])
