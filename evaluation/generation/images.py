"""How well a pipeline's pictures suit their recordings, beside real and wrong ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import require_same_model
from clip2clap.evaluation.cache import MadeFiles, make_pictures
from clip2clap.evaluation.classifiers import Classifier, Sound, ZeroShotClassifier
from clip2clap.evaluation.cycle import (
    RoundTrip,
    back_to_sounds,
    measure_round_trip,
    similarity_within_kinds,
)
from clip2clap.evaluation.datasets.audio import AudioDataset
from clip2clap.evaluation.encoding import PICTURES_AT_ONCE, hear_files, parts
from clip2clap.evaluation.translation import other_items
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.media.images import load_image
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.metrics.retrieval import distinct_rows
from clip2clap.translator.base import Translator


@dataclass(frozen=True)
class ImageScores:
    """What was measured of one set of pictures."""

    name: str
    """The translator's, `real pictures`, or the control's."""

    pictures: int
    """Pictures measured."""

    fd: float | None
    """Fréchet distance from the real pictures, of a vector a picture."""

    kd: float | None
    """Kernel distance from the real pictures."""

    classifier: Estimate | None
    """Share of the pictures whose kind the judge names."""

    translated: Estimate | None
    """Mean cosine similarity of picture and translated vector, where the measuring CLIP is the
    decoder's own: how well the decoder does what it is told, right or wrong."""

    true_picture: Estimate | None
    """Mean cosine similarity of picture and the recording's own picture; of recordings that have
    none, with all real pictures of their kind."""

    seconds: float | None
    """To make a picture, from recording to pixels; from the vector on where a table holds it."""


@dataclass(frozen=True)
class GeneratedImages:
    """A translator's pictures and their control."""

    scores: ImageScores
    """Of the pictures."""

    wrong_sound: ImageScores
    """The same pictures held against what belongs to another recording, of another kind if there
    are labels. Distances of whole sets can't see that."""

    confusion: list[list[int]] | None
    """Recordings of a label (first index, alphabetically) by what the judge names (second)."""

    round_trip: RoundTrip | None
    """From recording to picture to sound, if that was asked for."""

    files: list[Path] = field(repr=False)
    """The pictures, in order of the recordings."""


@dataclass(frozen=True)
class ImageEvaluation:
    """All that was measured of pictures."""

    clip: str
    """The measuring CLIP."""

    classifier: str | None
    """Who judged; None where there are no labels."""

    real: ImageScores | None
    """The real pictures, with one half of them held against the other; None without any."""

    translators: list[GeneratedImages]
    """In the order given."""

    per_row: dict[str, np.ndarray] = field(repr=False)
    """By `TRANSLATOR/figure`, shape (n,)."""

    notes: list[str]
    """What to know before believing the figures."""


def evaluate_images(
    pipeline: AudioToImagePipeline,
    translators: Mapping[str, Translator],
    audio_items: AudioDataset,
    folder: str | Path,
    *,
    clip: ClipEncoder,
    classifier: Classifier | None = None,
    round_trip: ImageToAudioPipeline | None = None,
    seed: int = 0,
    num_inference_steps: int | None = None,
    batch_size: int = 8,
    resamples: int = 1000,
    on_progress: Callable[[float], None] | None = None,
) -> ImageEvaluation:
    """Make a picture of each recording by each translator, and measure them.

    Pictures are kept in `folder`; a run that was stopped goes on with those that are missing.

    Args:
        pipeline: Makes pictures; its own translator is not used. Its CLAP hears recordings, and
            the ends of round trips.
        translators: By name; each from the recordings' CLAP into the decoder's CLIP.
        audio_items: Recordings, labels and real pictures.
        folder: Where pictures go, one folder a translator.
        clip: Measures; needs a picture tower.
        classifier: Names the kinds of pictures; used where there are labels.
        round_trip: Makes sounds of the pictures, which are held against the recordings.
        seed: The recording at place i gets the noise of seed + i.
        num_inference_steps: Denoising steps of pictures; the pipeline's default if None.
        batch_size: Pictures, or sounds, made at a time.
        resamples: Draws of the bootstrap.
        on_progress: Called with the share that is done.

    Returns:
        Figures beside those of real pictures and of the wrong sound.

    Raises:
        SpaceMismatchError: If a translator was made for other spaces.
        UserError: If a file can't be read or written, or a model lacks a tower.
    """
    if pipeline.clap is None and (audio_items.vectors is None or round_trip is not None):
        raise UserError("The pipeline has no CLAP to hear recordings with. Load it with clap=.")
    source = (
        pipeline.clap.space("audio")
        if audio_items.vectors is None and pipeline.clap is not None
        else audio_items.vectors and audio_items.vectors.audio_space
    )
    for translator in translators.values():
        if source is not None:
            translator.check_source(source)
        if pipeline.decoder.space is not None:
            translator.check_target(pipeline.decoder.space)
    if round_trip is not None and source is not None and pipeline.clap is not None:
        require_same_model(
            source, pipeline.clap.space("audio"), what="The recordings' CLAP is not the pipeline's"
        )
    bench = _Bench(pipeline, audio_items, clip, classifier, resamples)
    legs = 1 if round_trip is None else 2
    results = []
    for at, (name, translator) in enumerate(translators.items()):

        def advance(share: float, leg: int = 0, at: int = at) -> None:
            if on_progress is not None:
                on_progress((at + (leg + share) / legs) / len(translators))

        vectors, heard = bench.translate(translator)
        place = Path(folder).expanduser() / name.replace("/", "-")
        made = make_pictures(
            pipeline,
            vectors,
            place,
            [audio_item.name for audio_item in audio_items.audio_items],
            seed=seed,
            num_inference_steps=num_inference_steps,
            batch_size=batch_size,
            advance=advance,
        )
        back = round_trip and back_to_sounds(
            round_trip,
            made.files,
            place / "back",
            seed=seed,
            batch_size=batch_size,
            advance=lambda share, advance=advance: advance(share, 1),
        )
        results.append(bench.measure(name, made, vectors, heard, back))
    return ImageEvaluation(
        clip=clip.space("image").model_id,
        classifier=None if bench.classifier is None else bench.classifier.name,
        real=bench.real(),
        translators=results,
        per_row=bench.per_row,
        notes=bench.notes(),
    )


def image_results(
    evaluation: ImageEvaluation, audio_items: AudioDataset, *, recordings: str, pipeline: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bring an evaluation of pictures into the form of `results.json` and `results.npz`."""
    figures = {
        "protocol": audio_items.protocol,
        "recordings": recordings,
        "pipeline": pipeline,
        "fingerprint": f"{audio_items.fingerprint()} {evaluation.clip} {evaluation.classifier}",
        "rows": len(audio_items.audio_items),
        "real_pictures": 0 if evaluation.real is None else evaluation.real.pictures,
        "kinds": audio_items.labels,
        "clip": evaluation.clip,
        "classifier": evaluation.classifier,
        "real": evaluation.real and asdict(evaluation.real),
        "translators": [
            {
                "scores": asdict(one.scores),
                "wrong_sound": asdict(one.wrong_sound),
                "confusion": one.confusion,
                "round_trip": one.round_trip and asdict(one.round_trip),
            }
            for one in evaluation.translators
        ],
        "notes": evaluation.notes,
    }
    names = np.array([audio_item.name for audio_item in audio_items.audio_items])
    items = np.array([audio_item.item or audio_item.name for audio_item in audio_items.audio_items])
    per_row = {
        "ids": names,
        "items": np.unique(items, return_inverse=True)[1].astype(np.int32),
        **evaluation.per_row,
    }
    return figures, {f"pictures/{name}": values for name, values in per_row.items()}


class _Bench:
    """The recordings and real pictures, and what made ones are measured with."""

    def __init__(
        self,
        pipeline: AudioToImagePipeline,
        audio_items: AudioDataset,
        clip: ClipEncoder,
        classifier: Classifier | None,
        resamples: int,
    ):
        self.pipeline, self.audio_items, self.clip = pipeline, audio_items, clip
        several = len(audio_items.labels) > 1
        self.classifier = classifier if several else None
        decoder = pipeline.decoder.space
        self.is_own_clip = decoder is not None and decoder.same_model_as(clip.space("image"))
        items = [audio_item.item or audio_item.name for audio_item in audio_items.audio_items]
        self.draws = Resamples(items, resamples=resamples)
        self.labels = [audio_item.label or "" for audio_item in audio_items.audio_items]
        self.others = other_items(self.labels if several else items, seed=0).tolist()
        self.per_row: dict[str, np.ndarray] = {}
        self.audio_embeds, self.hearing = self._hear_takes()
        self.real_embeds, self.real_labels, self.real_kinds, self.own = self._look_at_real()

    @torch.no_grad()
    def translate(self, translator: Translator) -> tuple[Tensor, float]:
        """Give the translated vectors, and the seconds a recording took until there."""
        start = time.perf_counter()
        vectors = translator(self.audio_embeds.to(translator.device)).float().cpu()
        return vectors, self.hearing + (time.perf_counter() - start) / len(vectors)

    def measure(
        self, name: str, made: MadeFiles, vectors: Tensor, heard: float, back: MadeFiles | None
    ) -> GeneratedImages:
        """Measure pictures against their own recordings and against wrong ones."""
        embeds, kinds = self._see(made.files)
        apart = _distances(embeds, self.real_embeds)

        def score(name: str, order: list[int], seconds: float | None) -> ImageScores:
            rows = self._rows(embeds, kinds, vectors, order)
            self.per_row |= {f"{name}/{figure}": values for figure, values in rows.items()}
            return ImageScores(
                name=name,
                pictures=len(embeds),
                **apart,
                classifier=self.draws.share(rows["classifier"]) if "classifier" in rows else None,
                translated=self._mean(rows, "translated"),
                true_picture=self._mean(rows, "true_picture"),
                seconds=seconds,
            )

        return GeneratedImages(
            scores=score(name, list(range(len(embeds))), heard + made.seconds_each),
            wrong_sound=score(f"{name}/wrong sound", self.others, None),
            confusion=None if kinds is None else self._confusion(kinds),
            round_trip=back and self._round_trip(name, back),
            files=made.files,
        )

    def real(self) -> ImageScores | None:
        """Measure the real pictures, one half against the other."""
        embeds, labels = self.real_embeds, self.real_labels
        if len(embeds) < 4:
            return None
        # Every other one: neighbours in the order of names are of one kind.
        half = torch.arange(len(embeds)) % 2 == 0
        classifier = true_picture = None
        if labels is not None:
            alike = similarity_within_kinds(embeds, labels)
            alike = alike[~np.isnan(alike)]
            if len(alike):
                draws = Resamples(range(len(alike)), resamples=self.draws.resamples)
                true_picture = draws.mean(alike)
            if self.real_kinds is not None:
                # What is of no recording's kind can't be named right.
                known = set(self.audio_items.labels)
                pairs = zip(self.real_kinds, labels, strict=True)
                right = [named == label for named, label in pairs if label in known]
                if right:
                    draws = Resamples(range(len(right)), resamples=self.draws.resamples)
                    classifier = draws.share(np.array(right))
        return ImageScores(
            name="real pictures",
            pictures=len(embeds),
            **_distances(embeds[half], embeds[~half]),
            classifier=classifier,
            translated=None,
            true_picture=true_picture,
            seconds=None,
        )

    def notes(self) -> list[str]:
        """Say what the figures hang on."""
        found = []
        if self.is_own_clip:
            found.append(
                "The measuring CLIP is the one the decoder was trained on, which flatters the "
                "pictures. Give another with --clip."
            )
        if len(self.real_embeds) > 1:
            found.append(
                "Distances are from all real pictures; the real pictures' own are between two "
                "halves, so their Fréchet distance is too high for their number. Compare kernel "
                "distances across sets of unlike size."
            )
        else:
            found.append("There are no pictures, so there is no distance from real ones.")
        if len(self.real_embeds) and self.own is None and self._of_kinds() is None:
            found.append(
                "There is not a real picture of each kind of recording, so there is no similarity "
                "with true pictures."
            )
        found.append(
            "Fréchet distances in this CLIP can't be compared with published ones in Inception."
        )
        return found

    def _hear_takes(self) -> tuple[Tensor, float]:
        """Embed the recordings, or take what the table holds; and tell the seconds each took."""
        if self.audio_items.vectors is not None:
            return self.audio_items.vectors.audio_embeds, 0.0
        start = time.perf_counter()
        files = [
            audio_item.recording
            for audio_item in self.audio_items.audio_items
            if audio_item.recording is not None
        ]
        clap = self.pipeline.clap
        assert clap is not None
        heard = hear_files(clap, files, load=_load_audible)
        return heard, (time.perf_counter() - start) / len(files)

    def _look_at_real(
        self,
    ) -> tuple[Tensor, list[str] | None, list[str] | None, Tensor | None]:
        """Embed the real pictures.

        Returns:
            Vectors (m, d); their labels, if each has one; what the judge names them; and of each
            recording its own picture's vector, if each has one, shape (n, d).
        """
        space, vectors = self.clip.space("image"), self.audio_items.vectors
        if vectors is not None:
            known = vectors.image_space
            if known is not None and not known.same_model_as(space):
                return torch.empty(0, space.dim), None, None, None
            embeds = vectors.image_embeds
            first = distinct_rows(embeds)[0]
            labels = [self.labels[at] for at in first.tolist()]
            # There are no pictures to show to any other judge.
            seen = isinstance(self.classifier, ZeroShotClassifier)
            named = (
                self.classifier([], embeds[first]) if seen and self.classifier is not None else None
            )
            return embeds[first], labels if all(labels) else None, named, embeds
        photographs = self.audio_items.photographs
        embeds, named = self._see([photograph.path for photograph in photographs])
        labels = [photograph.label for photograph in photographs if photograph.label is not None]
        has_labels = bool(labels) and len(labels) == len(photographs)
        return (
            embeds,
            labels if has_labels else None,
            named,
            embeds if self.audio_items.protocol == "pairs" else None,
        )

    def _see(self, files: Sequence[Path]) -> tuple[Tensor, list[str] | None]:
        """Embed pictures, and have their kinds named."""
        embeds, classifier = [], self.classifier
        kinds: list[str] | None = None if classifier is None else []
        for part in parts(files, PICTURES_AT_ONCE):
            pictures = [load_image(file) for file in part]
            embeds.append(self.clip.encode_image(pictures))
            if classifier is not None and kinds is not None:
                kinds += classifier(pictures, embeds[-1])
        empty = torch.empty(0, self.clip.space("image").dim)
        return torch.cat(embeds) if embeds else empty, kinds

    def _rows(
        self, embeds: Tensor, kinds: list[str] | None, vectors: Tensor, order: list[int]
    ) -> dict[str, np.ndarray]:
        """Hold each picture against what belongs to the recording at `order`."""
        rows = {}
        if self.is_own_clip:
            told = torch.nn.functional.normalize(vectors[order], dim=1)
            rows["translated"] = (embeds * told).sum(1).numpy()
        of_kinds = self._of_kinds()
        if self.own is not None:
            rows["true_picture"] = (embeds * self.own[order]).sum(1).numpy()
        elif of_kinds is not None:
            means = torch.stack([of_kinds[self.labels[at]] for at in order])
            rows["true_picture"] = (embeds * means).sum(1).numpy()
        if kinds is not None:
            rows["classifier"] = np.array(
                [kind == self.labels[at] for kind, at in zip(kinds, order, strict=True)]
            )
        return rows

    def _of_kinds(self) -> dict[str, Tensor] | None:
        """Give the mean vector of each kind's real pictures; None if a kind has none."""
        if self.real_labels is None or not set(self.labels) <= set(self.real_labels):
            return None
        labels = np.array(self.real_labels)
        return {
            label: self.real_embeds[torch.from_numpy(labels == label)].mean(0)
            for label in set(self.labels)
        }

    def _round_trip(self, name: str, back: MadeFiles) -> RoundTrip:
        """Hold the ends of round trips against the recordings, in the CLAP that heard these."""
        assert self.pipeline.clap is not None
        ends = hear_files(self.pipeline.clap, back.files)
        found, rows = measure_round_trip(
            self.audio_embeds,
            ends,
            labels=self.labels if len(self.audio_items.labels) > 1 else None,
            others=self.others,
            draws=self.draws,
        )
        self.per_row |= {f"{name}/{figure}": values for figure, values in rows.items()}
        return found

    def _confusion(self, kinds: Sequence[str]) -> list[list[int]]:
        return confusion_matrix(self.labels, kinds, labels=self.audio_items.labels).tolist()

    def _mean(self, rows: Mapping[str, np.ndarray], figure: str) -> Estimate | None:
        return self.draws.mean(rows[figure]) if figure in rows else None


def _load_audible(file: Path) -> Sound:
    """Read a recording in which there is something to hear."""
    waveform, sampling_rate = load_audio(file)
    require_audible(waveform, str(file))
    return waveform, sampling_rate


def _distances(embeds: Tensor, reference: Tensor) -> dict[str, Any]:
    if min(len(embeds), len(reference)) < 2:
        return {"fd": None, "kd": None}
    sides = embeds.numpy(), reference.numpy()
    return {"fd": frechet_distance(*sides), "kd": kernel_distance(*sides)}
