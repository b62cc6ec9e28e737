"""AudioCaps captions to CLIP text embeddings: `clip2clap extract audiocaps --only clip`.

python embedding_CLIP.py [--split val] [--captions FILE] [--clip MODEL | --demo] [--frames FOLDER]
"""

import sys

from clip2clap.cli.app import main

if __name__ == "__main__":
    main(["extract", "audiocaps", "--only", "clip", *sys.argv[1:]])
