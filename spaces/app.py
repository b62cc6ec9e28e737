"""App of a Hugging Face Space: `clip2clap serve` with the demo models."""

import os

from clip2clap.cli.app import main

if __name__ == "__main__":
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    main(["serve", "--host", "0.0.0.0", "--port", port, "--no-browser", "--max-users", "40"])
