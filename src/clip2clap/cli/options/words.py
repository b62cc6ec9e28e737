"""Options of descriptions in words: captioners, vocabularies, and prompts made of them."""

from typing import Literal

from clip2clap.cli.command import Options, option


class Captioners(Options, panel="Models"):
    """Captioners."""

    captioner: list[str] | None = option(
        "Captioner: folder, hub id, demo (reads the demo CLIP) or demo-clap; may be given twice, "
        "for images and for audio. By default the demo ones.",
        "NAME",
    )


class Vocabulary(Options, panel="Labels"):
    """Words that keywords are chosen from."""

    vocabulary: str = option(
        "Words to choose from: audioset, fsd50k, esc50, us8k, demo, imagenet, imagehear, "
        "objectnet, a file with one per line, or words separated by commas.",
        "WORDS",
        default="audioset",
        api="labels",
    )


class Describe(Captioners, Vocabulary, panel="Words"):
    """Prompts that describe the inputs."""

    describe: bool = option(
        "Describe each input in words, and use the description as its prompt.", default=False
    )
    prompt_template: str | None = option(
        "Prompt made of a description. By default '{caption}, {keywords}', for image-to-audio "
        "'{caption}'.",
        "TEXT",
    )
    prompt_keywords: int = option(
        "Keywords in a description.", default=3, min=1, api="num_keywords"
    )


class TextModel(Options, panel="Models"):
    """Text-to-image pipelines."""

    text_model: str | None = option(
        "Text-to-image pipeline of diffusers that gets the prompt of --describe, or the captions "
        "of evaluate's words route: a preset (stable-diffusion-1-5 ...), a hub id or a folder. By "
        "default the decoder gets it, beside the audio or, in evaluate, alone.",
        "NAME",
    )


class Route(TextModel, panel="Words"):
    """Routes from audio to images."""

    route: Literal["words", "mixed"] = option(
        "With --text-model: from the prompt alone, or mixed: from the decoder's image, changed "
        "towards the prompt as far as --strength says.",
        default="words",
    )
