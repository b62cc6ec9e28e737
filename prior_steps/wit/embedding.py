"""WIT image URLs to CLIP image embeddings, captions to CLAP text embeddings.

The same as `clip2clap extract wit`.

python embedding.py [--split val] [--captions FILE] [--language uk] [--caption-field reference]
"""

import sys

from clip2clap.cli.app import main

if __name__ == "__main__":
    main(["extract", "wit", *sys.argv[1:]])
