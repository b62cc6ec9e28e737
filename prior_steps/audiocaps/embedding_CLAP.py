"""AudioCaps captions to CLAP text embeddings, merged with the rows of embedding_CLIP.py.

The same as `clip2clap extract audiocaps --only clap --pair-with auto`.

python embedding_CLAP.py [--split val] [--captions FILE] [--clap MODEL | --demo] [--audio FOLDER]
"""

import sys

from clip2clap.cli.app import main

if __name__ == "__main__":
    main(["extract", "audiocaps", "--only", "clap", "--pair-with", "auto", *sys.argv[1:]])
