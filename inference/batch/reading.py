"""Reading of jobs: hashes, names, images, and groups that are generated at once."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import SPECTROGRAM_ENDING, free_stem, is_url
from clip2clap.inference.batch.jobs import Job
from clip2clap.inference.batch.manifest import Entry, Manifest, key_of
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.media.arrays import open_file
from clip2clap.media.images import UnreadableImageError, download_image, load_image

# Groups of different lengths that are held until one is full.
_MOST_HELD = 4
# Longest side of an image that is only to be shown, in pixels.
_SHRUNK = 640


@dataclass
class Item:
    """Job that is ready to be generated, or whose entry is final."""

    entry: Entry
    value: Any = None
    """Image, or prompt."""
    described: Image.Image | None = None
    """Image that the prompt describes."""
    resumed: bool = False
    """True for an entry of an earlier run."""
    error: Exception | None = None
    """Error for which it failed; none if memory lacked."""

    @property
    def kind(self) -> tuple[Any, ...]:
        """Items of one kind can be generated in one call."""
        entry = self.entry
        return entry["prompt"] is None, entry["seconds"], entry["negative_prompt"] is None

    @property
    def image(self) -> Image.Image | None:
        """Image, if there is one."""
        return self.value if isinstance(self.value, Image.Image) else self.described

    def shrink(self) -> None:
        """Shrink the image, so that those that wait to be written take little memory."""
        if self.image is not None:
            self.image.thumbnail((_SHRUNK, _SHRUNK))


class Reader:
    """Reader of jobs, which finds those that were done before and names the files of others.

    Args:
        manifest: Manifest of the folder; None to do all jobs.
        folder: Folder of the files.
        facts: Entry of a job with all defaults.
        count_samples: Raises a `UserError` for a length that cannot be generated.
        options: Options of the batch.
    """

    def __init__(
        self,
        manifest: Manifest | None,
        folder: Path,
        facts: Entry,
        count_samples: Callable[[float], int],
        options: BatchOptions,
    ):
        self._manifest, self._folder, self._options = manifest, folder, options
        self._facts, self._count_samples = facts, count_samples
        several = options.num_variations > 1
        numbers = range(1, options.num_variations + 1) if several else [0]
        marks = [f"-{number}" if several else "" for number in numbers]
        self._suffixes = [f"{mark}.{options.format}" for mark in marks]
        if options.spectrogram:
            self._suffixes += [f"{mark}{SPECTROGRAM_ENDING}" for mark in marks]
        # Names of earlier runs stay with their jobs; replaced files are named as by a first run.
        keep = manifest is not None and not options.overwrite
        names = manifest.names if manifest is not None and keep else ()
        self._taken = dict.fromkeys(names, 1)

    def read(self, jobs: Iterable[Job]) -> Iterator[Item]:
        """Yield the items of jobs, in their order; images that had another name come last.

        Such an image is known by its hash, but another one that is given may have both.
        """
        renamed: list[tuple[int, Job]] = []
        for index, job in enumerate(jobs):
            item = self._read(index, job)
            if item is None:
                renamed.append((index, job))
            else:
                yield item
        for index, job in renamed:
            item = self._read(index, job, renamed=True)
            assert item is not None
            yield item

    def _read(self, index: int, job: Job, *, renamed: bool = False) -> Item | None:
        """Return the item of a job; None if its image may be one that had another name."""
        seed = self._options.seed + index if job.seed is None else job.seed
        entry = {**self._facts, "input": job.image, "prompt": job.prompt, "seed": seed}
        entry |= {"heard_as": [], "fits": None, "outputs": []}
        if job.seed is not None:
            entry["settings"] = {**entry["settings"], "seed": None}
        entry["negative_prompt"] = job.negative_prompt or entry["negative_prompt"]
        entry["seconds"] = job.seconds or entry["seconds"]
        try:
            if job.problem is not None:
                raise UserError(job.problem)
            self._count_samples(entry["seconds"])
            return self._item(job, entry, renamed=renamed)
        except (UserError, OSError) as error:
            reason = one_line(error, limit=None)
            return Item({**entry, "status": "skipped", "reason": reason})

    def _item(self, job: Job, entry: Entry, *, renamed: bool) -> Item | None:
        source, earlier, content = job.image, None, job.content
        # What is done of the web is known by its address, without a download.
        is_remote = content is None and source is not None and is_url(source)
        if content is not None:
            entry["sha256"] = hashlib.sha256(content).hexdigest()
        elif source is not None and not is_remote:
            entry["sha256"] = _sha256(source)
        if self._manifest is not None:
            key = key_of(entry)
            earlier = self._manifest.take(key, source, renamed=renamed)
            if earlier is None and self._manifest.has_untaken(key):
                return None
        if earlier is not None and self._is_done(earlier):
            return Item(earlier, resumed=True)
        if is_remote:
            private = job.allow_private or self._options.allow_private
            content = download_image(str(source), private)
            entry["sha256"] = hashlib.sha256(content).hexdigest()
        value: Any = job.prompt
        described = None
        if source is not None:
            value = load_image(source) if content is None else load_image(content, name=source)
            described, value = self._describe(value, entry)
        entry["name"] = self._named(job, None if earlier is None else earlier["name"])
        return Item(entry, value, described)

    def _describe(self, image: Image.Image, entry: Entry) -> tuple[Image.Image | None, Any]:
        """Return an image with its description as prompt, or none and the image itself."""
        if self._options.describe is None:
            return None, image
        entry["prompt"] = self._options.describe(image)
        return image, entry["prompt"]

    def _is_done(self, earlier: Entry) -> bool:
        assert self._manifest is not None
        return self._manifest.has_files(earlier) and not self._options.overwrite

    def _named(self, job: Job, name: str | None) -> str:
        if name is None or (self._options.overwrite and name.casefold() in self._taken):
            name = free_stem(
                self._folder,
                job.stem,
                self._suffixes,
                taken=self._taken,
                overwrite=self._options.overwrite,
            )
        else:
            self._taken.setdefault(name.casefold(), 1)
        return name


def _sha256(source: str) -> str:
    with open_file(source, UnreadableImageError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def grouped(items: Iterable[Item], size: Callable[[float], int]) -> Iterator[list[Item]]:
    """Yield items of one kind in groups, and finished ones alone.

    Few groups are held at a time: the fullest goes first.

    Args:
        items: Items in their order.
        size: Returns the size of a group for a length in s.
    """
    held: dict[Any, list[Item]] = {}
    for item in items:
        if item.value is None:
            yield [item]
            continue
        group = held.setdefault(item.kind, [])
        group.append(item)
        if len(group) >= size(item.entry["seconds"]):
            yield held.pop(item.kind)
        elif len(held) > _MOST_HELD:
            yield held.pop(max(held, key=lambda kind: len(held[kind])))
    yield from held.values()
