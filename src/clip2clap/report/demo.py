"""Page of the demo: an image, its audio and spectrogram, and the nearest labels."""

import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from clip2clap.core.version import __version__
from clip2clap.report.page import data_uri, generator_tag, write_page

_LONGEST_SIDE = 1200

_STYLE = """\
  p { margin: 0 0 1.5rem; max-width: 42rem; }
  figure {
    margin: 0 0 1.5rem; padding: clamp(.5rem, 2vw, 1rem); background: var(--card);
    border: 1px solid var(--line); border-radius: .75rem;
  }
  img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: .375rem; }
  .image img { max-height: 70vh; width: auto; }
  .scroll { overflow-x: auto; }
  .scroll img { min-width: 36rem; }
  .spectrogram { background: #ffffff; color: #1d1b18; }
  .spectrogram figcaption { color: #5d5850; }
  audio { display: block; width: 100%; }
  figcaption { margin-top: .6rem; color: var(--soft); font-size: .9375rem; }
  caption { font-size: .9375rem; }
  td:last-child { width: 60%; padding-right: 0; }
  meter { width: 100%; height: 1rem; vertical-align: middle; }
"""
_CONTENT = Template("""\
  <p>CLIP encoded the image as a vector, and a small network translated that vector into the space
  of CLAP, which embeds audio and text. A diffusion model generated the audio below from it, in
  place of a text prompt.</p>
  <figure class="image">
    <img src="$image" width="$width" height="$height" alt="$image_text">
    <figcaption>$image_text</figcaption>
  </figure>
  <figure>
    <audio controls preload="auto" src="$audio" aria-label="The audio made from the image"></audio>
    <figcaption>The audio, $seconds s at $kilohertz kHz</figcaption>
  </figure>
  <figure class="spectrogram">
    <div class="scroll" tabindex="0" role="region" aria-label="Spectrogram">
      <img src="$spectrogram" width="1800" height="800"
        alt="Mel spectrogram of the audio: time in seconds to the right, frequency in Hz upwards">
    </div>
    <figcaption>Mel spectrogram: the brighter, the louder</figcaption>
  </figure>
  $nearest""")


def write_demo_page(
    files: Mapping[str, Path],
    *,
    image: Image.Image,
    title: str,
    seconds: float,
    sampling_rate: int,
    nearest: list[tuple[str, float]],
    seed: int,
) -> None:
    """Write the demo's page as one self-contained file.

    Args:
        files: `page`, the HTML file to write, replaced if it exists, in an existing folder; and
            `audio`, the generated WAV file, and `spectrogram`, a PNG of it.
        image: Input image, shown at up to 1200 pixels.
        title: Caption and alternative text of the image.
        seconds: Length of the audio, in s.
        sampling_rate: Sampling rate of the audio, in Hz.
        nearest: Labels nearest to the audio embedding with their cosine similarities, the nearest
            first; may be empty.
        seed: Seed of the audio.
    """
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=90)
    content = _CONTENT.substitute(
        image=data_uri(jpeg.getvalue(), "image/jpeg"),
        image_text=escape(title),
        width=image.width,
        height=image.height,
        audio=data_uri(files["audio"].read_bytes(), "audio/wav"),
        seconds=f"{seconds:.1f}",
        kilohertz=f"{sampling_rate / 1000:g}",
        spectrogram=data_uri(files["spectrogram"].read_bytes(), "image/png"),
        nearest=_nearest_table(nearest),
    )
    write_page(
        files["page"],
        verb="demo",
        title="From image to audio",
        content=content,
        footer=f"Made with clip2clap {escape(__version__)} with seed {seed}.",
        style=_STYLE,
        width="56rem",
    )


def write_unfinished_page(path: Path) -> None:
    """Write a page that claims a folder for the demo, whose next run may then replace its files."""
    write_page(
        path,
        verb="demo",
        title="From image to audio",
        content="<p>This run of the demo was stopped before its end. Run it again.</p>",
        footer=f"Made with clip2clap {escape(__version__)}.",
    )


def is_demo_page(path: Path) -> bool:
    """Return True for a page that `write_demo_page` or `write_unfinished_page` wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return generator_tag("demo") in file.read(1000)
    except OSError:
        return False


def _nearest_table(nearest: list[tuple[str, float]]) -> str:
    if not nearest:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{similarity:.2f}</td>'
        f'<td><meter min="0" max="1" value="{max(0.0, similarity):.3f}" aria-hidden="true">'
        "</meter></td></tr>"
        for label, similarity in nearest
    )
    return (
        "<figure><table><caption>Labels nearest to the audio embedding, "
        f"by cosine similarity</caption>{rows}</table></figure>"
    )
