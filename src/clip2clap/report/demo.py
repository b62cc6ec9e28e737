"""One self-contained web page that shows a photograph, its sound and its spectrogram."""

import io
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from clip2clap.report.page import data_uri, generator_tag, write_page

_LONGEST_SIDE = 1200

_STYLE = """\
  p { margin: 0 0 1.5rem; max-width: 42rem; }
  figure {
    margin: 0 0 1.5rem; padding: clamp(.5rem, 2vw, 1rem); background: var(--card);
    border: 1px solid var(--line); border-radius: .75rem;
  }
  img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: .375rem; }
  .photograph img { max-height: 70vh; width: auto; }
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
  <p>$story</p>
  <figure class="photograph">
    <img src="$picture" width="$width" height="$height" alt="$picture_text">
    <figcaption>$picture_text</figcaption>
  </figure>
  <figure>
    <audio controls preload="auto" src="$sound" aria-label="The sound of the photograph"></audio>
    <figcaption>The sound, $seconds s at $kilohertz kHz</figcaption>
  </figure>
  <figure class="spectrogram">
    <div class="scroll" tabindex="0" role="region" aria-label="Spectrogram">
      <img src="$spectrogram" width="1800" height="800"
        alt="Mel spectrogram of the sound: time in seconds to the right, frequency in Hz upwards">
    </div>
    <figcaption>The same sound as a picture: the brighter, the louder</figcaption>
  </figure>
  $nearest""")


def write_demo_page(
    path: str | Path,
    *,
    photograph: Image.Image,
    photograph_text: str,
    sound: Path,
    spectrogram: Path,
    seconds: float,
    sampling_rate: int,
    nearest: list[tuple[str, float]],
    seed: int,
    version: str,
) -> None:
    """Write a page that holds all it shows, so that it can be sent around as one file.

    Args:
        path: The HTML file to write; its folder must exist. A file of that name is replaced.
        photograph: The picture the sound was made from, shown at no more than 1200 pixels.
        photograph_text: What to call the picture, below it and for those who cannot see it.
        sound: The sound, a WAV file.
        spectrogram: Its spectrogram, a PNG.
        seconds: Length of the sound in s.
        sampling_rate: Sampling rate of the sound in Hz.
        nearest: The known kinds nearest to the sound's vector with their cosine similarities,
            the nearest first; may be empty.
        seed: The seed the sound was made from.
        version: The version of clip2clap.
    """
    picture = photograph.convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=90)
    content = _CONTENT.substitute(
        story=(
            "A CLIP encoder looked at the photograph and put what it saw into a vector, which a "
            "small network translated into a vector of CLAP, where sounds and their descriptions "
            "lie. A diffusion model turned that vector into the sound below, as if it had been "
            "asked for it in words."
        ),
        picture=data_uri(jpeg.getvalue(), "image/jpeg"),
        picture_text=escape(photograph_text),
        width=picture.width,
        height=picture.height,
        sound=data_uri(sound.read_bytes(), "audio/wav"),
        seconds=f"{seconds:.1f}",
        kilohertz=f"{sampling_rate / 1000:g}",
        spectrogram=data_uri(spectrogram.read_bytes(), "image/png"),
        nearest=_nearest_table(nearest),
    )
    write_page(
        Path(path),
        verb="demo",
        title="The sound of a photograph",
        content=content,
        footer=f"Made with clip2clap {escape(version)} from the seed {seed}.",
        style=_STYLE,
        width="56rem",
    )


def is_demo_page(path: Path) -> bool:
    """Tell whether a file is a page that `write_demo_page` wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return generator_tag("demo") in file.read(1000)
    except OSError:
        return False


def _nearest_table(nearest: list[tuple[str, float]]) -> str:
    if not nearest:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(kind)}</th><td>{similarity:.2f}</td>'
        f'<td><meter min="0" max="1" value="{max(0.0, similarity):.3f}" aria-hidden="true">'
        "</meter></td></tr>"
        for kind, similarity in nearest
    )
    return (
        "<figure><table><caption>The known kinds nearest to the sound's vector, "
        f"by cosine similarity</caption>{rows}</table></figure>"
    )
