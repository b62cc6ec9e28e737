"""The folder a run writes into: its checkpoint while it lasts, its translator when it is done."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.report import TrainingReport
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import CONFIG_FILE, WEIGHTS_FILE

CHECKPOINT_FILE = "checkpoint.safetensors"
REPORT_FILE = "training.json"


class RunFolder:
    """One run's folder; every file in it is either absent, of the last state, or of the next.

    Args:
        path: The folder; made if it isn't there.
        settings: The run's settings, as plain values.
        data: Fingerprint of the pairs.
        overwrite: Whether what another run left there may go.

    Raises:
        UserError: If the folder holds a translator or an unfinished run with other settings or
            other pairs, or something else's `config.json`, and `overwrite` is False.
    """

    def __init__(self, path: Path, *, settings: dict[str, Any], data: str, overwrite: bool):
        self.path, self.settings, self.data = path, settings, data
        if path.is_file():
            raise UserError(f"{path} is a file; give the folder to write the translator into.")
        path.mkdir(parents=True, exist_ok=True)
        strangers = self._strangers()
        if strangers and not overwrite:
            raise UserError(
                f"{path} already holds {strangers}. Give another folder, or allow it to be "
                "overwritten."
            )
        if strangers:
            for name in (REPORT_FILE, CHECKPOINT_FILE, CONFIG_FILE, WEIGHTS_FILE):
                (path / name).unlink(missing_ok=True)

    def finished(self) -> TrainingReport | None:
        """Give the report if this very run has been finished before."""
        if (self.path / CHECKPOINT_FILE).exists() or not (self.path / REPORT_FILE).exists():
            return None
        return TrainingReport.read(self.path / REPORT_FILE)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give the tensors and the plain values of the last checkpoint, if there is one."""
        path = self.path / CHECKPOINT_FILE
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["state"])

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put a checkpoint in the place of the last one, in one step."""
        run = {"settings": self.settings, "data": self.data}
        metadata = {"state": json.dumps(state), "run": json.dumps(run)}
        scratch = self.path / f".{CHECKPOINT_FILE}"
        save_file({k: v.contiguous() for k, v in tensors.items()}, scratch, metadata=metadata)
        os.replace(scratch, self.path / CHECKPOINT_FILE)

    def publish(self, translator: Translator, report: TrainingReport) -> None:
        """Write the translator and the report, and only then drop the checkpoint."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".") as scratch:
            translator.save_pretrained(scratch)
            (Path(scratch) / REPORT_FILE).write_text(
                json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8"
            )
            for name in (WEIGHTS_FILE, CONFIG_FILE, REPORT_FILE):
                os.replace(Path(scratch) / name, self.path / name)
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def _strangers(self) -> str | None:
        """Say what is in the folder that this run didn't write."""
        if (self.path / CHECKPOINT_FILE).exists():
            try:
                with safe_open(self.path / CHECKPOINT_FILE, framework="pt") as file:
                    run = json.loads((file.metadata() or {}).get("run", "{}"))
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
        theirs, ours = run.get("settings", {}), self.settings
        changed = [
            f"{name} {theirs.get(name)!r} in place of {value!r}"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if run.get("data") != self.data:
            changed.append("other pairs")
        return ", ".join(changed) or None
