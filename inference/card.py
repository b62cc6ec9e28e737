"""Saving and uploading of pipelines with a model card of their translator."""

import json
from pathlib import Path
from typing import Any, ClassVar

from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from clip2clap.core.errors import UserError
from clip2clap.inference.compatibility import PathOrId
from clip2clap.translator.card import push, write_card
from clip2clap.translator.saving import plain


class CardedPipeline(DiffusionPipeline):
    """Diffusion pipeline that is saved with a model card."""

    translator: Any
    _low_memory: bool
    usage: ClassVar[str]
    """Arguments of a call, for the model card."""

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: PathOrId,
        *,
        license: str | None = None,
        name: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save all components into a folder, with a model card.

        Args:
            save_directory: Output folder; created if missing.
            license: Identifier of the license for the card, such as `cc-by-4.0`.
            name: Title of the card; the folder's name if None. A card that you edited is kept.
            push_to_hub: Upload the folder too, to the repository `repo_id`.
            **kwargs: As for `DiffusionPipeline.save_pretrained`, and for `push_to_hub`.
        """
        if self._low_memory:
            raise UserError(
                "A pipeline loaded with low_memory=True has no weights in memory to save: load it "
                "without.",
                param="low_memory",
            )
        names = ("repo_id", "commit_message", "private", "token", "create_pr")
        hub = {key: kwargs.pop(key) for key in names if key in kwargs}
        for each in (self, *self.components.values()):
            if isinstance(each, ConfigMixin):
                each._internal_dict = FrozenDict(plain(dict(each.config)))
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        name = name or folder.resolve().name
        if self.translator is not None:
            kind = type(self).__name__
            usage = (
                f"from clip2clap import {kind}\n\n"
                f"pipeline = {kind}.from_pretrained({json.dumps(name)})\n"
                f"output = pipeline({self.usage})"
            )
            write_card(folder, name, usage, self.translator.config, license=license)
        if push_to_hub:
            self.push_to_hub(**{"repo_id": name, "license": license, **kwargs, **hub})

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload pipeline",
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        **kwargs: Any,
    ) -> str:
        """Upload the pipeline with its model card; the repository is created if missing.

        Args:
            repo_id: Repository, such as `"owner/name"`.
            commit_message: Summary of the commit.
            private: Make a new repository private; the account's default if None.
            token: Access token; the stored one if None.
            create_pr: Open a pull request in place of a commit.
            **kwargs: As for `save_pretrained`.

        Returns:
            The address of the commit.
        """
        return push(
            lambda folder, name: self.save_pretrained(folder, name=name, **kwargs),
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
        )
