"""`python -m clip2clap` is the `clip2clap` command."""

from clip2clap.cli.app import main

if __name__ == "__main__":
    main()
