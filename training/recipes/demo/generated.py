"""Audio that the demo generator makes of embeddings, and how much of it is recognized."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.classification import AUDIO_PROMPT, IMAGE_PROMPT
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, AudioBank
from clip2clap.training.recipes.demo.data import SAMPLING_RATE, DemoImage
from clip2clap.training.recipes.demo.spaces import TypicalFeatures
from clip2clap.training.recipes.demo.words import FURTHER_CLASSES, members

if TYPE_CHECKING:
    from clip2clap.training.recipes.demo.recipe import Recipe

CANDIDATES = 4


def generate(pipeline: ImageToAudioPipeline, embeds: Tensor, *, seed: int) -> Tensor:
    """Generate one candidate for each CLAP embedding (n, d), shape (n, samples)."""
    generator = torch.Generator().manual_seed(seed)
    output = pipeline(prompt_embeds=embeds, num_candidates=1, generator=generator, output_type="pt")
    assert isinstance(output.audios, Tensor)
    return output.audios[:, :CLIP_SAMPLES]


def recognize_further(
    recipe: "Recipe",
    pipeline: ImageToAudioPipeline,
    clip: ClipEncoder,
    clap: ClapEncoder,
    images: Sequence[DemoImage],
    bank: AudioBank,
    count: int,
) -> dict[str, float]:
    """Classify audio of the classes that there are no images of.

    Typical embeddings stand for images: the CLIP's words for the ImageNet classes, varied as other
    images vary.

    Args:
        recipe: The recipe, for its data and its classifier.
        pipeline: The generator, with the translator.
        clip: The demo CLIP.
        clap: The demo CLAP.
        images: Full-size images, of whatever ImageNet class.
        bank: Audio of a split.
        count: Embeddings of each class to generate from.

    Returns:
        Share that is right among all classes of audio, by class and kind of audio.
    """
    names, numbers = recipe.data.audio_class_names, recipe.data.imagenet_names
    first, classifier = len(recipe.data.classes), recipe.audio_classifier
    images = [image for image in images if image.category in numbers]
    known = torch.tensor([numbers.index(image.category) for image in images])
    image_embeds = clip.encode_image([image.load() for image in images])
    vectors = clip.encode_text([IMAGE_PROMPT.format(name) for name in numbers])
    typical = TypicalFeatures(vectors, image_embeds, known)
    texts = clap.encode_text([AUDIO_PROMPT.format(name) for name in names])
    assert pipeline.translator is not None
    results: dict[str, float] = {}
    for label, name in enumerate(names[first:], first):
        below = torch.tensor(members(FURTHER_CLASSES[name]))
        drawn = below.repeat(-(-count // len(below)))[:count]
        embeds = pipeline.translator(typical.draw_embeds(drawn))
        every = generate(pipeline, embeds.repeat_interleave(CANDIDATES, 0), seed=2)
        best, _ = pipeline.rank(every, embeds)
        real = bank.batch(torch.where(bank.labels == label)[0], CLIP_SAMPLES)
        heard = clap.encode_audio([(waveform.numpy(), SAMPLING_RATE) for waveform in real])
        results[f"{name}: CLAP, translated images"] = _share((embeds @ texts.T).argmax(1), label)
        for what, waveforms in (
            ("real audio", real),
            ("from recordings, one candidate", generate(pipeline, heard, seed=1)),
            ("from images, one candidate", every),
            ("from images", every[torch.arange(count) * CANDIDATES + best]),
        ):
            share = _share(classifier.predict(waveforms), label)
            results[f"{name}: audio classifier, {what}"] = share
    return results


def _share(predicted: Tensor, label: int) -> float:
    return (predicted == label).float().mean().item()
