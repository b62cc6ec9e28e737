"""Conceptual Captions' image URLs to CLIP image embeddings, captions to CLAP text embeddings.

The same as `clip2clap extract conceptual-captions`.

python embedding.py [--split val] [--captions FILE]
"""

import sys

from clip2clap.cli.app import main

if __name__ == "__main__":
    main(["extract", "conceptual-captions", *sys.argv[1:]])
