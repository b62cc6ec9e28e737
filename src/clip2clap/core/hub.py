"""Model hub: fetching of files, error messages, and muting of libraries' logs."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clip2clap.core.errors import HubUnreachableError, ModelNotFoundError, one_line

Listing = list[str] | Exception
"""Files of a repository, or the reason why the hub cannot list them."""


def list_hub_files(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Listing:
    """List a repository's files in one request with a time limit; return any error of it.

    The hub client's own listing retries for minutes, and its downloads never time out where a
    firewall drops packets.
    """
    if local_files_only:
        return ConnectionError("local_files_only is set")
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(
            repo_id,
            revision=revision or "main",
            token=token,
            timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT,
        )
    except Exception as error:  # which errors depends on the hub client's HTTP library
        return error
    return [file.rfilename for file in info.siblings or ()]


def fetch(
    repo_id: str,
    choose_files: Callable[[list[str] | None], list[str]],
    *,
    hint: str,
    name: str | None = None,
    guess: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    listed: Listing | None = None,
) -> Path:
    """Return the local folder of a repository, with the chosen files downloaded.

    The hub is asked once, with a time limit, unless `listed` is its answer; where it refuses or
    cannot be reached, files that were downloaded before are used. `choose_files` returns the names
    or patterns of the wanted files, given the repository's files, or None where the hub cannot list
    them. A `ModelNotFoundError` has the `name` that the user gave, if it is not the repository's, a
    `hint` with the valid alternatives, and the name that may have been meant as a `guess`.
    """
    from huggingface_hub import snapshot_download

    if listed is None:
        listed = list_hub_files(
            repo_id, revision=revision, token=token, local_files_only=local_files_only
        )
    refusal = listed if isinstance(listed, Exception) else None
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            allow_patterns=choose_files(None if isinstance(listed, Exception) else listed),
            local_files_only=refusal is not None,
            cache_dir=cache_dir,
            force_download=force_download and refusal is None,
            tqdm_class=_download_bar(),
        )
    except Exception as error:
        raise _explained(
            refusal or error, name or repo_id, repo_id, hint, guess, revision
        ) from error
    return Path(folder)


def _explained(
    error: Exception, name: str, repo_id: str, hint: str, guess: str | None, revision: str | None
) -> ModelNotFoundError:
    from huggingface_hub import errors

    messages = {
        errors.HFValidationError: f"{name!r} is neither a folder nor a hub id. {hint}",
        errors.GatedRepoError: f"{name!r} requires its terms to be accepted: accept them on the "
        "hub's page, then log in with `hf auth login`.",
        errors.RepositoryNotFoundError: f"The hub has no public model {name!r}. {hint} A private "
        "one needs `hf auth login`.",
        errors.RevisionNotFoundError: f"{name!r} has no revision {revision!r}.",
    }
    for kind, message in messages.items():
        if isinstance(error, kind):
            return ModelNotFoundError(message)
    return HubUnreachableError(
        f"{name!r} is not on this machine and the model hub can't be reached "
        f"({one_line(error, limit=80)}). "
        + (f"Did you mean {guess!r}? Otherwise give" if guess else "Give")
        + " a local folder, or connect to the network, or fetch it once with "
        f"`hf download {repo_id}`."
    )


def _download_bar() -> Any:
    from huggingface_hub.utils import tqdm

    class DownloadBar(tqdm):
        """Progress bar of a download's bytes; nothing when all is cached."""

        def __init__(self, *args: Any, **kwargs: Any):
            if kwargs.get("unit") != "B":
                kwargs["disable"] = True
            super().__init__(*args, **{**kwargs, "leave": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Draw the bar, if there is anything to download."""
            if self.total:
                super().display(msg, pos)

    return DownloadBar


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mute the logs, warnings and progress bars of transformers, diffusers and open_clip.

    What they warn of while a model loads (missing or extra weights) is checked by the caller.
    """
    from transformers.utils import logging as transformers_log

    libraries: list[Any] = [transformers_log]
    if "diffusers" in sys.modules:
        from diffusers.utils import logging as diffusers_log

        libraries.append(diffusers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
    # open_clip logs through the root logger's functions, which install a handler if there is none.
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    for log in libraries:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        for log, (verbosity, bars) in zip(libraries, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
