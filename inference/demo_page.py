"""One self-contained web page that shows a photograph, its sound and its spectrogram."""

import base64
import io
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from clip2clap.embeddings.files import replacing

_GENERATOR_TAG = '<meta name="generator" content="clip2clap demo">'
_LONGEST_SIDE = 1200

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$generator
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
  :root {
    --paper: #faf8f4; --card: #ffffff; --ink: #1d1b18; --soft: #5d5850; --line: #e2ddd3;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --paper: #161412; --card: #211e1b; --ink: #f1ede6; --soft: #b3aca1; --line: #37322d;
    }
  }
  * { box-sizing: border-box; }
  body {
    margin: 0; padding: clamp(1rem, 4vw, 3rem); background: var(--paper); color: var(--ink);
    font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  }
  main { max-width: 56rem; margin: 0 auto; }
  h1 { margin: 0 0 .5rem; font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.2; }
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
  table { border-collapse: collapse; width: 100%; }
  caption { text-align: left; color: var(--soft); font-size: .9375rem; padding-bottom: .4rem; }
  th, td { padding: .35rem 1rem .35rem 0; text-align: left; border-top: 1px solid var(--line); }
  td:last-child { width: 60%; padding-right: 0; }
  td { font-variant-numeric: tabular-nums; }
  meter { width: 100%; height: 1rem; vertical-align: middle; }
  footer { margin-top: 2rem; color: var(--soft); font-size: .9375rem; }
</style>
</head>
<body>
<main>
  <h1>$title</h1>
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
  $nearest
  <footer>Made with clip2clap $version from the seed $seed.</footer>
</main>
</body>
</html>
""")


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
    page = _PAGE.substitute(
        generator=_GENERATOR_TAG,
        title="The sound of a photograph",
        story=(
            "A CLIP encoder looked at the photograph and put what it saw into a vector, which a "
            "small network translated into a vector of CLAP, where sounds and their descriptions "
            "lie. A diffusion model turned that vector into the sound below, as if it had been "
            "asked for it in words."
        ),
        picture=_data_uri(jpeg.getvalue(), "image/jpeg"),
        picture_text=escape(photograph_text),
        width=picture.width,
        height=picture.height,
        sound=_data_uri(sound.read_bytes(), "audio/wav"),
        seconds=f"{seconds:.1f}",
        kilohertz=f"{sampling_rate / 1000:g}",
        spectrogram=_data_uri(spectrogram.read_bytes(), "image/png"),
        nearest=_nearest_table(nearest),
        seed=seed,
        version=escape(version),
    )
    with replacing(Path(path)) as partial:
        partial.write_text(page, encoding="utf-8")


def is_demo_page(path: Path) -> bool:
    """Tell whether a file is a page that `write_demo_page` wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _GENERATOR_TAG in file.read(1000)
    except OSError:
        return False


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


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
