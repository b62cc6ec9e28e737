"""Page of generated audio: each image with its audio files, to listen, compare and choose from."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path, PurePath
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from clip2clap.core.errors import UserError, is_number, printable
from clip2clap.core.files import PAGE_FOLDER, is_url, replacing
from clip2clap.core.version import __version__
from clip2clap.report.page import data_uri, generator_tag, write_page

PART = 1000
"""Most entries of one HTML file; further ones go to `index-2.html` and so on."""

Entry = Mapping[str, Any]
"""Entry of `manifest.jsonl`; keys may be missing or None."""

# Pixels of the picture below which an audio file's playhead moves.
_WIDTH, _WAVE_HEIGHT, _MEL_HEIGHT = 800, 72, 136
# Of the colors of the spectrogram's map, for both color schemes.
_BACKGROUND, _WAVE = "#000004", "#fec68a"
_MEDIA_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}
# Stands for an entry's title until the others of its part are known; no printable text has it.
_TITLE = "\0"
# Less probable labels than the first are not shown.
_LEAST_PROBABILITY = 0.01
_ORDERS = ("as made", "name", "label", "similarity", "loudness", "seconds")

_ENTRY = Template("""\
<article class="entry" data-name="$name" data-label="$label" data-status="$status" \
data-similarity="$similarity" data-loudness="$loudness" data-seconds="$seconds" \
data-probability="$probability" data-seed="$seed">
<div class="image">$image</div>
<div class="body">
<h2 title="$source">$title</h2>$badge$heard$reason
<div class="audios">$audios</div>
<details><summary>Settings</summary><dl>$details</dl></details>
</div>
</article>
""")
_AUDIO = Template("""\
<section class="audio$dropped" aria-label="$name" data-file="$file" data-similarity="$similarity">
<div class="screen">$picture<input type="range" min="0" max="$seconds" step="0.01" value="0" \
aria-label="Position in $name"></div>
<div class="row"><button class="play" aria-label="Play $name"></button><span class="time"></span>
<button class="star" aria-pressed="false" aria-label="Favorite $name"></button>
<a class="download" href="$href" download="$name" target="_blank" \
aria-label="Download $name"></a></div>
<div class="facts">$facts</div>
</section>
""")
_TOOLS = Template("""\
<form class="tools" role="search" aria-label="Sort and filter">
<label class="text">Search <input type="search" name="text" autocomplete="off"></label>
<label>Sort by <select name="order">$orders</select></label>
<label class="check"><input type="checkbox" name="reverse"> Reverse</label>
<label>Label <select name="label"><option value="">all</option></select></label>
<label>Show <select name="show"><option value="">all</option><option value="favorites">favorites\
</option><option value="failed">failed or skipped</option></select></label>
<label>Similarity from <input type="number" name="similarity" min="-1" max="1" step="0.05"></label>
<output class="shown" aria-live="polite"></output>
<span class="export"><select name="format" aria-label="Format of the list"><option>csv</option>\
<option>json</option><option>txt</option></select>
<button type="button" name="export">Export favorites (<span class="chosen">0</span>)</button></span>
</form>
""")
_KEYS = """\
<p class="keys"><kbd>space</kbd> play or pause, <kbd>→</kbd> <kbd>←</kbd> next or previous audio"""
_KEYS_OF_MANY = """\
, <kbd>↓</kbd> <kbd>↑</kbd> or <kbd>j</kbd> <kbd>k</kbd> next or previous image, <kbd>f</kbd> \
favorite, <kbd>/</kbd> search"""


class AudioPage:
    """Page of generated audio, written as a run goes; entries cost the same however many there are.

    The page makes no request but for the files beside it, and works from `file://`. Without `embed`
    it links the audio files, and its pictures are in the folder `page` beside it, where those of
    unchanged files are kept.

    Args:
        path: HTML file, whose folder must exist. After `PART` entries `index.html` is followed by
            `index-2.html` and so on.
        title: Title.
        verb: Verb of the command that writes it.
        intro: HTML below the title.
        embed: Embed audio and pictures, so that the page is one file.
        longest_side: Longest side of the images shown, in pixels.

    Raises:
        UserError: If another program's file is at `path`.

    Examples:
        >>> page = AudioPage("index.html", title="Sounds")
        >>> page.add({"input": "dog.jpg", "status": "done", "outputs": [{"path": "bark.wav"}]})
        >>> page.write()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        title: str,
        verb: str = "image-to-audio",
        intro: str = "",
        embed: bool = False,
        longest_side: int = 320,
    ):
        self._path, self._title, self._verb, self._intro = Path(path), title, verb, intro
        self._embed, self._longest_side = embed, longest_side
        self._part, self._entries = 1, list[tuple[str, str, str]]()
        if self._path.exists() and not is_page(self._path, verb):
            raise UserError(
                f"{self._path} was not written by clip2clap {verb}. Move it, or name another "
                "folder.",
                param="output",
            )

    def add(self, entry: Entry, image: Image.Image | None = None) -> None:
        """Add an entry; only its own files are read.

        Args:
            entry: Entry of the manifest. The paths of its outputs are relative to the page's
                folder.
            image: The input image, if it is at hand; otherwise it is read, unless it is a URL.
        """
        if len(self._entries) == PART:
            self._write_part(followed=True)
            self._part, self._entries = self._part + 1, []
        source = str(entry.get("input") or entry.get("prompt") or "")
        name = source if source == entry.get("prompt") else PurePath(source).name
        self._entries.append((name, source, self._entry(entry, name, source, image)))

    def write(self) -> None:
        """Write the file of the latest entries atomically; those before it are complete."""
        self._write_part(followed=False)
        beyond = self._file(self._part + 1)
        if is_page(beyond, self._verb):  # of a longer run
            beyond.unlink()

    def _file(self, part: int) -> Path:
        stem = self._path.stem
        return self._path if part == 1 else self._path.with_stem(f"{stem}-{part}")

    def _write_part(self, *, followed: bool) -> None:
        links = []
        if self._part > 1:
            links += [("First part", 1), ("Previous part", self._part - 1)]
        if followed:
            links.append(("Next part", self._part + 1))
        nav = "".join(f'<a href="{quote(self._file(n).name)}">{text}</a>' for text, n in links)
        many = len(self._entries) > 1 or self._part > 1
        orders = "".join(f"<option>{order}</option>" for order in _ORDERS)
        parts = [
            self._intro,
            f'<nav aria-label="Parts">Part {self._part} {nav}</nav>' if nav else "",
            _TOOLS.substitute(orders=orders) if many else "",
            _KEYS + (_KEYS_OF_MANY if many else "") + "</p>",
            f'<div class="entries{"" if many else " single"}">\n',
            *(self._titled() or ["<p>Nothing is made yet. Load the page again later.</p>"]),
            f'</div><p class="none" hidden>No image matches.</p>\n<script>{_static("js")}</script>',
        ]
        write_page(
            self._file(self._part),
            verb=self._verb,
            title=self._title,
            content="".join(parts),
            footer=f"Made with clip2clap {escape(__version__)}.",
            style=_static("css"),
            width="88rem",
        )

    def _titled(self) -> list[str]:
        """Return the entries titled by name, and by path where others have the name, too."""
        counts = Counter(name for name, _ in {(name, source) for name, source, _ in self._entries})
        return [
            html.replace(_TITLE, _text(name if counts[name] == 1 else source), 1)
            for name, source, html in self._entries
        ]

    def _entry(self, entry: Entry, name: str, source: str, image: Image.Image | None) -> str:
        outputs = sorted(entry.get("outputs") or [], key=_rank)
        best = outputs[0] if outputs else {}
        heard = entry.get("heard_as") or [{}]
        status, reason = entry.get("status") or "done", entry.get("reason")
        return _ENTRY.substitute(
            name=_text(name),
            title=_TITLE,
            source=_text(source),
            label=_text(heard[0].get("label")),
            probability=_number(heard[0].get("probability"), "{:.4f}"),
            seed=_text(entry.get("seed")),
            status=_text(status),
            badge="" if status == "done" else f'<span class="badge">{_text(status)}</span>',
            heard=_heard(entry.get("heard_as") or []),
            reason=f'<p class="reason">{_text(reason)}</p>' if reason else "",
            image=self._thumbnail(entry, name, image),
            audios="".join(
                self._audio(output, is_best=0 == place < len(outputs) - 1)
                for place, output in enumerate(outputs)
            ),
            details=_details(entry),
            **{key: _number(best.get(key)) for key in ("similarity", "loudness", "seconds")},
        )

    def _audio(self, output: Entry, *, is_best: bool) -> str:
        path = str(output.get("path") or "")
        name, file = PurePath(path).name, self._path.parent / path
        try:
            picture = self._picture(path, lambda: draw_audio(file), file.stat().st_mtime_ns)
        except (OSError, UserError):
            return f'<p class="reason">{_text(name)} cannot be read.</p>'
        href = quote(os.fsencode(PurePath(path).as_posix()))
        if self._embed:
            suffix = file.suffix.lower()
            href = data_uri(file.read_bytes(), _MEDIA_TYPES.get(suffix, "audio/ogg"))
        facts = [
            "dropped" if output.get("kept") is False else "best" if is_best else "",
            _number(output.get("similarity"), "similarity {:.2f}"),
            _number(output.get("loudness"), "{:.1f} LUFS"),
        ]
        return _AUDIO.substitute(
            name=_text(name),
            file=_text(path),
            href=escape(href),
            dropped=" dropped" if output.get("kept") is False else "",
            seconds=_number(output.get("seconds")) or "0",
            similarity=_number(output.get("similarity")),
            picture=f'<img src="{picture}" width="{_WIDTH}" height="{_WAVE_HEIGHT + _MEL_HEIGHT}" '
            f'loading="lazy" alt="Waveform and mel spectrogram of {_text(name)}">',
            facts=" · ".join(f"<span>{fact}</span>" for fact in facts if fact),
        )

    def _thumbnail(self, entry: Entry, name: str, image: Image.Image | None) -> str:
        source = entry.get("input")
        if not source or source == entry.get("prompt"):
            return ""

        def draw() -> Image.Image:
            from clip2clap.media.images import load_image

            if image is None and is_url(source):
                raise UserError("Images of the web are not fetched twice.")
            small = (load_image(source) if image is None else image).convert("RGB")
            small.thumbnail((self._longest_side, self._longest_side), reducing_gap=2.0)
            return small

        try:
            src = self._picture(f"{self._longest_side} {entry.get('sha256') or source}", draw)
        except (OSError, UserError):
            return ""
        return f'<img src="{src}" loading="lazy" alt="{_text(name)}">'

    def _picture(self, key: str, draw: Any, mtime_ns: int | None = None) -> str:
        """Return the address of a picture, which is drawn unless it is there with that time."""
        digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).hexdigest()
        file = self._path.parent / PAGE_FOLDER / f"{digest}.webp"
        if not self._embed and file.exists() and mtime_ns in (None, file.stat().st_mtime_ns):
            return f"{PAGE_FOLDER}/{file.name}"
        encoded = io.BytesIO()
        draw().save(encoded, "WEBP", quality=82, method=2)
        if self._embed:
            return data_uri(encoded.getvalue(), "image/webp")
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as partial:
            partial.write_bytes(encoded.getvalue())
            if mtime_ns is not None:
                os.utime(partial, ns=(mtime_ns, mtime_ns))
        return f"{PAGE_FOLDER}/{file.name}"


def write_audio_page(
    path: str | Path, entries: Iterable[Entry], *, title: str, embed: bool = False
) -> None:
    """Write the page of a finished run; see `AudioPage`.

    Args:
        path: HTML file, replaced if it exists; its folder must exist.
        entries: Entries of the manifest.
        title: Title.
        embed: Embed audio and pictures, so that the page is one file.

    Raises:
        UserError: If another program's file is at `path`.

    Examples:
        >>> entry = {"input": "dog.jpg", "status": "done", "outputs": [{"path": "bark.wav"}]}
        >>> write_audio_page("index.html", [entry], title="Sounds")
    """
    page = AudioPage(path, title=title, embed=embed)
    for entry in entries:
        page.add(entry)
    page.write()


def is_page(path: Path, verb: str) -> bool:
    """Return True for a page that a verb wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return generator_tag(verb) in file.read(1000)
    except OSError:
        return False


def _static(suffix: str) -> str:
    file = resources.files("clip2clap.report") / "static" / f"audio_page.{suffix}"
    return file.read_text(encoding="utf-8")


def _rank(output: Entry) -> tuple[bool, float]:
    similarity = output.get("similarity")
    return output.get("kept") is False, -similarity if is_number(similarity) else 2.0


def _text(value: Any) -> str:
    return "" if value is None else escape(printable(str(value)))


def _number(value: Any, form: str = "{:.6g}") -> str:
    """Return a number as text, and nothing if it is none or not finite."""
    return form.format(value) if is_number(value) else ""


def _heard(heard: Iterable[Entry]) -> str:
    items = [
        f'<li style="--share: {_number(each.get("probability"), "{:.3f}") or 0}">'
        f"{_text(each.get('label'))} <b>{_number(each.get('probability'), '{:.0%}')}</b></li>"
        for place, each in enumerate(heard)
        if not place or _is_probable(each.get("probability"))
    ]
    return f'<ol class="heard" aria-label="Heard as">{"".join(items)}</ol>' if items else ""


def _is_probable(probability: Any) -> bool:
    return is_number(probability) and probability >= _LEAST_PROBABILITY


def _details(entry: Entry) -> str:
    first = {name: entry.get(name) for name in ("input", "prompt", "negative_prompt", "seed")}
    facts = {**(entry.get("settings") or {}), **(entry.get("models") or {})}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            known = [f"{key} {each}" for key, each in value.items() if each is not None]
            facts[name] = ", ".join(known)
    return "".join(
        f"<dt>{_text(name.replace('_', ' '))}</dt><dd>{_text(value)}</dd>"
        for name, value in {**first, **{k: v for k, v in facts.items() if k not in first}}.items()
        if value is not None
    )


def draw_audio(file: Path) -> Image.Image:
    """Draw the waveform of an audio file, scaled to its peak, above its mel spectrogram."""
    from clip2clap.media.audio import load_audio
    from clip2clap.media.spectrogram import draw_spectrogram

    waveform, sampling_rate = load_audio(file)
    mel = draw_spectrogram(waveform, sampling_rate, width=_WIDTH, height=_MEL_HEIGHT)
    edges = np.arange(_WIDTH) * len(waveform) // _WIDTH
    peak = max(float(np.abs(waveform).max()), 1e-9)
    top = np.maximum.reduceat(waveform, edges) / peak  # (width,)
    bottom = np.minimum.reduceat(waveform, edges) / peak
    height = np.linspace(1.05, -1.05, _WAVE_HEIGHT)[:, None]  # (rows, 1)
    half = 1.05 / _WAVE_HEIGHT  # so that silence is a line
    inside = (height <= top + half) & (height >= bottom - half)
    picture = Image.new("RGB", (_WIDTH, _WAVE_HEIGHT + _MEL_HEIGHT), _BACKGROUND)
    picture.paste(_WAVE, (0, 0), Image.fromarray(inside))
    picture.paste(mel, (0, _WAVE_HEIGHT))
    return picture
