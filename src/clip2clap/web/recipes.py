"""The same result on the command line and in Python, as text to copy."""

import shlex
from collections.abc import Mapping
from typing import Any

from clip2clap.web.making import AudioOrder, ImageOrder, PaintingOrder


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
        seed=order.seed,
        **names,
        output="painting.png",
    )
    options = _arguments(
        iterations=order.iterations, step_size=order.step_size, cutouts=order.cutouts
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


def _command(verb: str, source: str, **options: Any) -> str:
    words = ["clip2clap", verb, source]
    for name, value in options.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _arguments(**values: Any) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items() if value is not None)


def _parts(names: Mapping[str, str], kind: str) -> str:
    return _arguments(**{name: value for name, value in names.items() if name != kind})
