"""The same result on the command line and in Python, as text to copy."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from clip2clap.search.files import is_media, modality_of
from clip2clap.search.query import Term
from clip2clap.web.filming import FilmOrder
from clip2clap.web.making import AudioOrder, ImageOrder, PaintingOrder
from clip2clap.web.naming import SHOWN
from clip2clap.web.searching import SearchOrder

_PLAIN = re.compile(r"\w[\w ]*")


def audio_recipes(order: AudioOrder, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the command and the Python code that generate the audio of an order.

    Args:
        order: The order.
        names: Names of models that are not the demo's, by option.
    """
    command = _command(
        "image-to-audio",
        order.name,
        variations=order.variations,
        num_candidates=order.candidates,
        duration_s=order.seconds,
        num_inference_steps=order.steps,
        negative_prompt=order.negative_prompt,
        seed=order.seed,
        **names,
        output="audio",
    )
    call = _arguments(
        generator=[order.seed],
        num_variations=order.variations,
        num_candidates=order.candidates,
        audio_length_in_s=order.seconds,
        num_inference_steps=order.steps,
        negative_prompt=order.negative_prompt,
    )
    generator, parts = names.get("generator", "demo"), _parts(names, "generator")
    return command, (
        "from clip2clap import ImageToAudioPipeline, write_audio\n\n"
        f"pipe = ImageToAudioPipeline.from_pretrained({generator!r}{parts})\n"
        f"output = pipe({order.name!r}{call})\n"
        "for number, audio in enumerate(output.audios, 1):\n"
        '    write_audio(f"audio-{number}.wav", audio, output.sampling_rate)\n'
    )


def image_recipes(order: ImageOrder, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the command and the Python code that generate the images of an order."""
    command = _command(
        "audio-to-image",
        order.name,
        num_images=order.count,
        num_inference_steps=order.steps,
        seed=order.seed,
        **names,
        output="images",
    )
    call = _arguments(
        generator=[order.seed], num_candidates=order.count, num_inference_steps=order.steps
    )
    decoder, parts = names.get("decoder", "demo"), _parts(names, "decoder")
    return command, (
        "from clip2clap import AudioToImagePipeline\n\n"
        f"pipe = AudioToImagePipeline.from_pretrained({decoder!r}{parts})\n"
        f"for number, image in enumerate(pipe({order.name!r}{call}).images, 1):\n"
        '    image.save(f"image-{number}.png")\n'
    )


def painting_recipes(order: PaintingOrder, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the command and the Python code that paint the image of an order."""
    command = _command(
        "paint",
        order.name,
        num_iterations=order.iterations,
        step_size=order.step_size,
        cutouts=order.cutouts,
        break_audio=order.parts,
        brisque=order.brisque or None,
        seed=order.seed,
        **names,
        output="painting.png",
    )
    options = _arguments(
        iterations=order.iterations,
        step_size=order.step_size,
        cutouts=order.cutouts,
        brisque=order.brisque or None,
    ).removeprefix(", ")
    decoder, parts = names.get("decoder", "demo"), _parts(names, "decoder")
    return command, (
        "import torch\n"
        "from clip2clap import AudioToImagePipeline\n"
        "from clip2clap.inference import Canvas, PaintingOptions, Target, paint\n\n"
        f"pipe = AudioToImagePipeline.from_pretrained({decoder!r}{parts})\n"
        f"canvas = Canvas.from_pretrained({decoder!r})\n"
        f"embeds = pipe.translate(pipe.encode_audio({order.name!r}))\n"
        f"generator = torch.Generator().manual_seed({order.seed})\n"
        "painted = paint(\n"
        "    canvas,\n"
        "    pipe.clip,\n"
        "    [Target(embeds[0])],\n"
        "    latent=canvas.noise(canvas.default_side, canvas.default_side, generator),\n"
        f"    options=PaintingOptions({options}),\n"
        "    generator=generator,\n"
        ")\n"
        'painted.image.save("painting.png")\n'
    )


def film_recipes(order: FilmOrder, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the command and the Python code that make the film of an order."""
    command = _command(
        "audio-to-image",
        *order.names,
        fps=float(order.fps),
        crossfade=order.crossfade_s,
        title=order.title,
        paint_on=order.paint_on or None,
        num_inference_steps=order.steps,
        seed=order.seed,
        **names,
        output="film.mp4",
    )
    decoder, parts = names.get("decoder", "demo"), _parts(names, "decoder")
    options = _arguments(fps=order.fps, crossfade_in_s=order.crossfade_s, title=order.title)
    call = _arguments(seed=order.seed, paint_on=order.paint_on or None)
    calls = {} if order.steps is None else {"num_inference_steps": order.steps}
    return f"{command} --film", (
        "from clip2clap import AudioToImagePipeline\n"
        "from clip2clap.inference import FilmOptions, make_film\n"
        "from clip2clap.inference.film.from_pipeline import (\n"
        "    film_size,\n"
        "    pipeline_embed,\n"
        "    pipeline_frames,\n"
        ")\n\n"
        f"pipe = AudioToImagePipeline.from_pretrained({decoder!r}{parts})\n"
        "width, height = film_size(pipe.decoder.trained_size, pipe.decoder.trained_size)\n"
        f"options = FilmOptions(width=width, height=height{options})\n"
        "make_film(\n"
        '    "film.mp4",\n'
        f"    {list(order.names)!r},\n"
        "    embed=pipeline_embed(pipe),\n"
        f"    make_frames=pipeline_frames(pipe, options{call}, calls={calls!r}),\n"
        "    options=options,\n"
        ")\n"
    )


def search_recipes(order: SearchOrder, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the command and the Python code that search with an order."""
    models = {name: value for name, value in names.items() if name != "index"}
    index, words = names.get("index", "library"), list[str]()
    for term in order.named.terms:
        if words or term.weight < 0:
            words.append("-" if term.weight < 0 else "+")
        words.append(_term(term))
    finds = [order.find] if order.find != "all" else ["image", "audio"]
    command = "\n".join(
        _command("search", index, *words, find=find, top=order.count, **models)
        + (" --distinct" if order.distinct else "")
        for find in finds
    )
    terms = "".join(f"    {term!r},\n" for term in order.named.terms)
    call = _arguments(k=order.count, distinct=order.distinct or None)
    return command, (
        "from clip2clap.search import Index\n"
        "from clip2clap.search.query import Query, Term\n\n"
        f"index = Index({index!r}{_arguments(**models)})\n"
        f"query = Query((\n{terms}))\n"
        f"for find in {tuple(finds)!r}:\n"
        f"    for hit in index.search(query, find=find{call}):\n"
        '        print(f"{hit.score:.3f} {hit.path}")\n'
    )


def naming_recipes(
    files: Sequence[str], labels: Sequence[str], names: Mapping[str, str]
) -> tuple[str, str]:
    """Return the command and the Python code that name files by labels."""
    # A label alone could be the name of a set of labels.
    listed = ", ".join(labels) if len(labels) > 1 else f"{labels[0]},"
    return _command("classify", *files, labels=listed, **names), (
        f"{_encoders(names)}"
        "from clip2clap.search import FileClassifier\n\n"
        f"classify = FileClassifier({list(labels)!r}, clip=clip, clap=clap)\n"
        f"for file in classify({list(files)!r}):\n"
        "    print(file.source, file.segments[0].labels)\n"
    )


def choosing_recipes(
    files: Sequence[str], speech: str, names: Mapping[str, str]
) -> tuple[str, str]:
    """Return the command and the Python code that choose images by speech."""
    return _command("classify", *files, speech=speech, top_k=len(files), **names), (
        "from clip2clap import ClipEncoder\n"
        "from clip2clap.embeddings.encoders.speech import SpeechEncoder\n"
        "from clip2clap.search.spoken import rank_images\n\n"
        f"clip = ClipEncoder.from_pretrained({names.get('clip', 'demo')!r})\n"
        f"speech = SpeechEncoder.from_pretrained({names.get('speech_encoder', 'demo')!r})\n"
        f"files = {list(files)!r}\n"
        f"said = speech.encode_audio([{speech!r}])\n"
        "shares = rank_images(said, clip.encode_image(files), scale=clip.logit_scale)[0]\n"
        "print(sorted(zip(shares.tolist(), files), reverse=True))\n"
    )


def describing_recipes(
    files: Sequence[str], vocabulary: str, names: Mapping[str, str]
) -> tuple[str, str]:
    """Return the commands and the Python code that find keywords and captions of files."""
    models = {name: value for name, value in names.items() if name != "captioner"}
    own = shlex.split(names.get("captioner", ""))
    caption = _command("caption", *files, **models)
    caption += "".join(f" --captioner {shlex.quote(each)}" for each in own)
    command = _command("keywords", *files, vocabulary=vocabulary, top=SHOWN, **models)
    return f"{command}\n{caption}", (
        f"{_encoders(names)}"
        "from clip2clap.captioning import Captioner\n"
        "from clip2clap.search import FileCaptioner, KeywordExtractor\n\n"
        f"files = {list(files)!r}\n"
        f"keywords = KeywordExtractor({vocabulary!r}, clip=clip, clap=clap)\n"
        f"for file in keywords(files, k={SHOWN}):\n"
        "    print(file.source, file.segments[0].labels)\n"
        f"captioners = [Captioner.from_pretrained(n) for n in {own or ['demo', 'demo-clap']!r}]\n"
        "for file in FileCaptioner(captioners, clip=clip, clap=clap)(files):\n"
        "    print(file.source, file.captions)\n"
    )


def _encoders(names: Mapping[str, str]) -> str:
    return (
        "from clip2clap import ClapEncoder, ClipEncoder\n\n"
        f"clip = ClipEncoder.from_pretrained({names.get('clip', 'demo')!r})\n"
        f"clap = ClapEncoder.from_pretrained({names.get('clap', 'demo')!r})\n"
    )


def _term(term: Term) -> str:
    """Return a term of a query that is read as what it is, whatever its words look like."""
    if term.modality == "text":
        return term.value if _PLAIN.fullmatch(term.value) else f"text:{term.value}:1"
    is_plain = is_media(term.value) and modality_of(term.value) == term.modality
    return term.value if is_plain else f"{term.modality}:{term.value}"


def _command(verb: str, *sources: str, **options: Any) -> str:
    words = ["clip2clap", verb, *sources]
    for name, value in options.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _arguments(**values: Any) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items() if value is not None)


def _parts(names: Mapping[str, str], kind: str) -> str:
    return _arguments(**{name: value for name, value in names.items() if name != kind})
