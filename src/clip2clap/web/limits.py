"""Limits of the app."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of what one user, and all users together, can ask of a server."""

    max_users: int = 20
    """Users whose runs wait or are computed at the same time."""

    workers: int = 1
    """Runs that are computed at the same time."""

    upload_bytes: int = 200_000_000
    """Bytes of one upload, of all its files."""

    stored_bytes: int = 4_000_000_000
    """Bytes of the uploads and results of all users."""

    input_s: float = 300.0
    """Length of uploaded audio, in s."""

    output_s: float = 30.0
    """Length of generated audio, in s."""

    variations: int = 4
    """Results of one run."""

    files: int = 20
    """Files of one run."""

    steps: int = 100
    """Denoising steps."""

    iterations: int = 500
    """Iterations of a painting."""

    kept_s: float = 3600.0
    """Time after which uploads and results are removed, in s."""
