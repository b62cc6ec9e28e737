"""Writing of a batch's files, manifest and page, in a thread beside the generation."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Self

from clip2clap.core.files import SPECTROGRAM_ENDING
from clip2clap.inference.batch.folder import PAGE_FILE
from clip2clap.inference.batch.manifest import CANDIDATES_FOLDER, Entry, Manifest, files_of
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.inference.batch.reading import Item
from clip2clap.inference.batch.tags import make_tags
from clip2clap.media.writing import write_audio
from clip2clap.report.audio_page import AudioPage

# Files are written here, and moved once their line is in the manifest: a kill leaves no file that
# no line knows. The name is one that `sole_run` removes.
_UNFINISHED = ".audio.part"
# Entries that may wait to be written.
_MOST_WAITING = 16
_PAGE_EVERY_S = 5.0


@dataclass(frozen=True)
class Generated:
    """Waveforms of an item, the most similar first, shape (n, samples)."""

    item: Item
    waveforms: Any
    similarities: list[float] | None
    run: dict[str, Any]
    """What the last bits depend on, see `describe_run`."""


class Writer:
    """Thread that writes the files of items, their lines of the manifest, and the page.

    Args:
        folder: Folder of the files.
        manifest: Manifest of the folder, if there is one.
        sampling_rate: Sampling rate of the waveforms, in Hz.
        options: Options of the batch.
        on_entry: Called in the thread with each entry once its files are written.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest | None,
        sampling_rate: int,
        options: BatchOptions,
        on_entry: Callable[[Entry, bool], None],
    ):
        self._folder, self._manifest = folder, manifest
        self._sampling_rate, self._options, self._on_entry = sampling_rate, options, on_entry
        self._page: AudioPage | None = None
        self._queue: Queue[Item | Generated | None] = Queue(_MOST_WAITING)
        self._thread = Thread(target=self._run, name="clip2clap-writing", daemon=True)
        self._error: BaseException | None = None
        self._written = 0.0

    def __enter__(self) -> Self:
        if self._manifest is not None:
            (self._folder / _UNFINISHED).mkdir(exist_ok=True)
            self._page = self._new_page()
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        shutil.rmtree(self._folder / _UNFINISHED, ignore_errors=True)
        if kind is None:
            self.put(None)

    def put(self, item: Item | Generated | None) -> None:
        """Queue an item to be written; raises the error that ended the thread."""
        if self._error is not None:
            raise self._error
        if item is not None:
            self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:  # otherwise the queue is emptied, so that `put` never waits
                try:
                    self._finish(item)
                except BaseException as error:  # raised again in the main thread
                    self._error = error
        try:
            self._end_page()
        except BaseException as error:
            self._error = self._error or error

    def _end_page(self) -> None:
        if self._page is None or self._manifest is None or self._error is not None:
            return
        if self._manifest.close():
            self._page = self._new_page()
        self._page.write()

    def _finish(self, item: Item | Generated) -> None:
        if isinstance(item, Generated):
            self._write(item)
            item = item.item
        elif self._manifest is not None and not item.resumed:
            self._manifest.append(item.entry)
        if self._page is not None and not item.resumed:
            self._page.add(item.entry, item.image)
            if time.monotonic() - self._written > _PAGE_EVERY_S:
                self._page.write()
                self._written = time.monotonic()
        self._on_entry(item.entry, item.resumed)

    def _write(self, generated: Generated) -> None:
        """Write the files of an item, its line of the manifest, and move the files in place."""
        entry, similarities = generated.item.entry, generated.similarities
        place = self._folder if self._manifest is None else self._folder / _UNFINISHED
        kept = self._options.num_variations
        for number, waveform in enumerate(generated.waveforms, 1):
            ending = f"-{number}" if number > 1 or kept > 1 else ""
            path = Path(f"{entry['name']}{ending}.{self._options.format}")
            path = path if number <= kept else CANDIDATES_FOLDER / path
            (place / path).parent.mkdir(exist_ok=True)
            written = write_audio(
                place / path,
                waveform,
                self._sampling_rate,
                self._options.file,
                tags=make_tags(entry, generated.run, number),
            )
            output = {
                "path": path.as_posix(),
                "kept": number <= kept,
                "similarity": similarities and round(similarities[number - 1], 4),
                **{name: value for name, value in asdict(written).items() if name != "path"},
            }
            if self._options.spectrogram:
                output["spectrogram"] = self._draw(place, path, waveform)
            entry["outputs"].append(output)
        if self._manifest is not None:
            self._manifest.append(entry)
            for file in files_of(entry):
                (self._folder / file).parent.mkdir(exist_ok=True)
                (place / file).replace(self._folder / file)

    def _draw(self, place: Path, path: Path, waveform: Any) -> str:
        from clip2clap.media.spectrogram import write_spectrogram

        image = path.with_name(f"{path.stem}{SPECTROGRAM_ENDING}")
        write_spectrogram(place / image, waveform, self._sampling_rate, title=path.stem)
        return image.as_posix()

    def _new_page(self) -> AudioPage:
        """Return a page of all entries of the manifest."""
        page = AudioPage(self._folder / PAGE_FILE, title="Generated audio")
        for entry in self._manifest.entries() if self._manifest is not None else ():
            page.add(entry)
        return page
