"""Folder of a training run: a checkpoint while it lasts, the translator when it is done."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from clip2clap.core.card import CARD_FILE
from clip2clap.core.errors import UserError
from clip2clap.core.output_folder import writing_to
from clip2clap.training.checkpoint import read_values
from clip2clap.training.config import upgrade_settings
from clip2clap.training.report import TrainingReport
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import CONFIG_FILE, WEIGHTS_FILE

CHECKPOINT_FILE = "checkpoint.safetensors"
REPORT_FILE = "training.json"


class RunFolder:
    """Folder of one run, in which every file is absent, of the last state, or of the next.

    It is created if missing; `overwrite` removes the output of a previous run.

    Raises:
        UserError: If the folder holds a translator or an unfinished run with other settings or
            other pairs, or the `config.json` of something else, and `overwrite` is False.
    """

    def __init__(self, path: Path, config: Any, data: str, *, overwrite: bool):
        self.path, self.checkpoint = path, path / CHECKPOINT_FILE
        self.identity: dict[str, Any] = {"settings": asdict(config), "data": data}
        """Settings and data, which the run's checkpoints carry."""
        with writing_to(path):
            foreign = self._foreign()
        if foreign and not overwrite:
            raise UserError(
                f"{path} already holds {foreign}. Give another folder, or overwrite=True.",
                param="overwrite",
            )
        if foreign:
            for name in (REPORT_FILE, CHECKPOINT_FILE, CONFIG_FILE, WEIGHTS_FILE):
                (path / name).unlink(missing_ok=True)

    @property
    def is_finished(self) -> bool:
        """True if this very run is finished, and its report and model are in the folder."""
        published = ((self.path / name).exists() for name in (REPORT_FILE, CONFIG_FILE))
        return not self.checkpoint.exists() and all(published)

    def finished(self) -> TrainingReport | None:
        """Return the report if this very run is finished."""
        return TrainingReport.read(self.path / REPORT_FILE) if self.is_finished else None

    def publish(self, translator: Translator, report: TrainingReport) -> None:
        """Write the translator and the report, and only then remove the checkpoint."""

        def save(scratch: Path) -> None:
            if (self.path / CARD_FILE).is_file():
                shutil.copy(self.path / CARD_FILE, scratch)
            translator.save_pretrained(scratch, name=self.path.resolve().name)

        self.publish_with(save, report.to_dict())

    def publish_with(self, save: Callable[[Path], None], report: dict[str, Any]) -> None:
        """Move what `save` writes and the report into the folder, then remove the checkpoint."""
        # Named as a file that `sole_run` removes after a kill.
        place = {"dir": self.path, "prefix": ".", "suffix": ".part"}
        with writing_to(self.path), tempfile.TemporaryDirectory(**place) as scratch:
            save(Path(scratch))
            text = json.dumps(report, indent=2) + "\n"
            (Path(scratch) / REPORT_FILE).write_text(text, encoding="utf-8")
            # A config without a report is of something else, so that it comes last.
            for saved in sorted(Path(scratch).iterdir(), key=lambda path: path.name == CONFIG_FILE):
                if saved.is_dir() and (self.path / saved.name).is_dir():
                    shutil.rmtree(self.path / saved.name)
                os.replace(saved, self.path / saved.name)
        self.checkpoint.unlink(missing_ok=True)

    def _foreign(self) -> str | None:
        """Return the files in the folder that this run did not write."""
        if self.checkpoint.exists():
            try:
                run = read_values(self.checkpoint).get("run") or {}
            except (SafetensorError, json.JSONDecodeError):
                return f"a {CHECKPOINT_FILE} that can't be read"
            difference = self._difference(run)
            return difference and f"an unfinished run with {difference}"
        if (self.path / REPORT_FILE).exists():
            try:
                report = json.loads((self.path / REPORT_FILE).read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError):
                return f"a {REPORT_FILE} that can't be read"
            difference = self._difference(report)
            return difference and f"a translator trained with {difference}"
        if (self.path / CONFIG_FILE).exists():
            return f"a {CONFIG_FILE} of something else"
        return None

    def _difference(self, run: dict[str, Any]) -> str | None:
        theirs, ours = upgrade_settings(run.get("settings", {})), self.identity["settings"]
        changed = [
            f"{name} {theirs.get(name)!r} in place of {value!r}"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if run.get("data") != self.identity["data"]:
            changed.append("other pairs")
        return ", ".join(changed) or None
