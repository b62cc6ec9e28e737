"""Speech in verbs: its files, its encoder, images that it means, and names that are spoken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip2clap.cli.checks import check_exists, choose_device, parse_weighted, require
from clip2clap.cli.inputs import Input, load_audible, load_named_image
from clip2clap.cli.progress import RunReport
from clip2clap.core.errors import UserError


def parse_speech(options: Any) -> list[tuple[str, float]]:
    """Return the files of `--speech` with their weights.

    Raises:
        UserError: If a file does not exist, or a weight is no number.
    """
    found = parse_weighted(options.speech, "speech", "FILE:WEIGHT such as say.wav:0.5")
    for file, _ in found:
        check_exists(file, "speech")
    return found


def load_speech_encoder(options: Any, device: Any, space: Any = None) -> Any:
    """Load the speech encoder of a verb, and check that it is of a space, None for any.

    Raises:
        UserError: If it cannot be found, or is another CLIP's.
    """
    from clip2clap.embeddings.encoders.speech import SpeechEncoder

    speech = SpeechEncoder.from_pretrained(options.speech_encoder or "demo", device=device)
    speech.check_clip(space)
    return speech


class SpokenCondition:
    """Condition of a pipeline's call from speech and audio: embeddings in its CLIP space.

    Args:
        pipeline: `AudioToImagePipeline`.
        speech: Speech encoder into its CLIP space.
        spoken: Inputs that are speech; others are audio.
    """

    def __init__(self, pipeline: Any, speech: Any, spoken: Sequence[str]):
        self._pipeline, self._speech, self._spoken = pipeline, speech, set(spoken)

    def __call__(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """Return the argument `image_embeds`, shape (n, d), unit norm."""
        import torch

        return {"image_embeds": torch.cat([self._embed(each) for each in inputs])}

    def _embed(self, each: Input) -> Any:
        if each.source in self._spoken:
            return self._speech.encode_audio([each.value])
        pipeline = self._pipeline
        return pipeline.translate(pipeline.encode_audio([each.value])).float().cpu()


def show_meant_images(options: Any, sources: Sequence[str], report: RunReport) -> None:
    """Print for each speech file the images that it means, the most likely first."""
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.search.spoken import rank_images

    device = choose_device(options.device)
    clip = ClipEncoder.from_pretrained(options.clip or "demo", device=device, modalities=["image"])
    speech = load_speech_encoder(options, device, clip.space("image"))
    report.lap("load")
    images, names = [], []
    for source in sources:
        try:
            images.append(load_named_image(source, allow_private=options.allow_private))
            names.append(source)
        except (UserError, OSError) as error:
            report.skip(source, error)
    scale = clip.logit_scale if options.temperature is None else 1 / options.temperature
    image_embeds = clip.encode_image(images) if images else None
    for file, _ in parse_speech(options):
        try:
            speech_embeds = speech.encode_audio([load_audible(file)])
        except (UserError, OSError) as error:
            report.skip(file, error)
            continue
        if image_embeds is None:
            continue
        similarities = (speech_embeds @ image_embeds.T)[0]
        fit = speech.fit_probability(similarities.max()[None])
        shares = rank_images(speech_embeds, image_embeds, scale=scale)[0].tolist()
        order = sorted(range(len(names)), key=lambda place: -shares[place])[: options.top_k]
        found = [
            {
                "image": names[place],
                "probability": round(shares[place], 4),
                "similarity": round(float(similarities[place]), 4),
            }
            for place in order
        ]
        listed = ", ".join(
            f"{each['image']} {each['probability']:.2f} (similarity {each['similarity']:.2f})"
            for each in found
        )
        report.show(f"{file}: {listed}")
        entry: dict[str, Any] = {"speech": file, "images": found}
        if fit is not None:
            entry["fits"] = round(float(fit), 4)
        report.warn_of_misfit(file, entry.get("fits"), "image")
        report.results.append(entry)
    report.lap("generate")


def load_spoken_labels(options: Any, clip: Any, report: RunReport) -> Any:
    """Return the classifier of images by the spoken names that the options name.

    Utterances that cannot be read are reported as skipped.
    """
    from clip2clap.search.labels import read_labels
    from clip2clap.search.spoken import SpokenLabels, read_spoken_labels, speak_labels

    utterances: Any = (
        speak_labels(read_labels("objectnet"))
        if options.spoken_labels == "objectnet"
        else read_spoken_labels(options.spoken_labels)
    )
    speech = load_speech_encoder(options, choose_device(options.device))
    labels = SpokenLabels(speech, clip, utterances, temperature=options.temperature)
    for source, reason in labels.unreadable.items():
        report.skip(source, reason)
    return labels


def check_spoken(options: Any, sources: Sequence[str]) -> None:
    """Check the options of speech of `classify` before models are loaded.

    Raises:
        UserError: If a file or folder does not exist, options contradict each other, or there is
            no synthesizer.
    """
    parse_speech(options)
    wants_names = options.spoken_labels is not None
    for given, param in ((options.speech, "speech"), (options.spoken_labels, "spoken_labels")):
        if given is None:
            continue
        from clip2clap.search.files import modality_of

        odd = [source for source in sources if modality_of(source) != "image"]
        require(not odd, param, f"it is about images, and {odd[0] if odd else ''} is none.")
        require(options.translator is None, param, "it cannot be combined with --translator.")
    if options.speech:
        for param in ("spoken_labels", "output", "as_csv", "timeline", "speak"):
            given = getattr(options, param)
            require(given in (None, False), param, "it cannot be combined with --speech.")
    require(
        wants_names or not options.speak,
        "speak",
        "it speaks the nearest of spoken names. Add --spoken-labels.",
    )
    if wants_names and options.spoken_labels != "objectnet":
        from clip2clap.search.spoken import read_spoken_labels

        read_spoken_labels(options.spoken_labels)
    if options.speak or options.spoken_labels == "objectnet":
        from clip2clap.media.synthesis import find_synthesizer

        find_synthesizer()


def write_answer(source: str, label: str) -> Path:
    """Write the spoken answer for an image into the current folder."""
    from clip2clap.media.synthesis import speak
    from clip2clap.media.writing import write_audio

    path = Path(f"{Path(source).stem}-spoken.wav")
    write_audio(path, *speak(f"A photo of a {label}."))
    return path
