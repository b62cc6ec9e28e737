"""How well a pipeline's sounds suit their photographs, beside real and wrong ones."""

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
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.evaluation.cache import MadeFiles, make_sounds
from clip2clap.evaluation.classifiers import Classifier, Sound
from clip2clap.evaluation.cycle import RoundTrip, back_to_pictures, measure_round_trip
from clip2clap.evaluation.datasets.images import ImageDataset
from clip2clap.evaluation.encoding import SOUNDS_AT_ONCE, parts, see_files
from clip2clap.evaluation.translation import other_items
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.translator.base import Translator

WINDOW_SECONDS = 1.0
"""Length of the windows of `fad`; VGGish's, which it was published with, are 0.96 s."""


@dataclass(frozen=True)
class AudioScores:
    """What was measured of one set of sounds."""

    name: str
    """The translator's, `real recordings`, or the control's."""

    clips: int
    """Sounds measured."""

    fd: float | None
    """Fréchet distance from the recordings, of a vector a sound."""

    fad: float | None
    """The same of a vector a second."""

    kd: float | None
    """Kernel distance from the recordings."""

    clap_score: Estimate | None
    """Mean cosine similarity of sound and words in the measuring CLAP."""

    translated: Estimate | None
    """Mean cosine similarity of sound and translated vector, where the measuring CLAP is the
    generator's own: how well the generator does what it is told, right or wrong."""

    classifier: Estimate | None
    """Share of the sounds whose kind the judge names."""

    clip_score: Estimate | None
    """100 times the mean cosine similarity of photograph and sound in CLIP, the sound carried
    there by a translator of the way back."""

    seconds: float | None
    """To make a sound, from photograph to waveform."""


@dataclass(frozen=True)
class GeneratedAudio:
    """A translator's sounds and its control."""

    scores: AudioScores
    """Of the sounds."""

    wrong_picture: AudioScores
    """The same sounds held against what belongs to another photograph, of another kind if there
    are labels. Distances of whole sets can't see that."""

    confusion: list[list[int]] | None
    """Photographs of a label (first index, alphabetically) by what the judge names (second)."""

    round_trip: RoundTrip | None
    """From photograph to sound to picture, if that was asked for."""

    files: list[Path] = field(repr=False)
    """The sounds, in order of the photographs."""


@dataclass(frozen=True)
class AudioEvaluation:
    """All that was measured of sounds."""

    clap: str
    """The measuring CLAP."""

    classifier: str | None
    """Who judged; None where there are no labels."""

    real: AudioScores | None
    """The recordings, with one half of them held against the other; None without recordings."""

    translators: list[GeneratedAudio]
    """In the order given."""

    per_row: dict[str, np.ndarray] = field(repr=False)
    """By `TRANSLATOR/figure`, shape (n,)."""

    notes: list[str]
    """What to know before believing the figures."""


def evaluate_audio(
    pipeline: ImageToAudioPipeline,
    translators: Mapping[str, Translator],
    image_items: ImageDataset,
    folder: str | Path,
    *,
    clap: ClapEncoder,
    classifier: Classifier | None = None,
    back: Translator | None = None,
    round_trip: AudioToImagePipeline | None = None,
    seed: int = 0,
    num_inference_steps: int | None = None,
    audio_length_in_s: float | None = None,
    batch_size: int = 8,
    resamples: int = 1000,
    on_progress: Callable[[float], None] | None = None,
) -> AudioEvaluation:
    """Make a sound of each photograph by each translator, and measure them.

    Sounds are kept in `folder`; a run that was stopped goes on with those that are missing.

    Args:
        pipeline: Makes sounds; its own translator is not used.
        translators: By name; each from the pipeline's CLIP into its generator's CLAP.
        image_items: Photographs, words and recordings.
        folder: Where sounds go, one folder a translator.
        clap: Measures; needs an audio tower, and a text tower for words.
        classifier: Names the kinds of sounds; used where there are labels.
        back: From the measuring CLAP into the pipeline's CLIP, for the CLIP-score.
        round_trip: Makes pictures of the sounds, which are held against the photographs.
        seed: The photograph at place i gets the noise of seed + i.
        num_inference_steps: Denoising steps; the pipeline's default if None.
        audio_length_in_s: Length of the sounds; the pipeline's default if None.
        batch_size: Sounds made at a time.
        resamples: Draws of the bootstrap.
        on_progress: Called with the share that is done.

    Returns:
        Figures beside those of the recordings and of the wrong picture.

    Raises:
        SpaceMismatchError: If a translator was made for other spaces.
        UserError: If a file can't be read or written, or a model lacks a tower.
    """
    if pipeline.clip is None:
        raise UserError("The pipeline has no CLIP to look at photographs with. Load it with clip=.")
    for translator in translators.values():
        translator.check_source(pipeline.clip.space("image"))
    if back is not None:
        back.check_source(clap.space("audio"))
        back.check_target(pipeline.clip.space("image"))
    bench = _Bench(pipeline, image_items, clap, classifier, back, resamples)
    legs = 1 if round_trip is None else 2
    results = []
    for at, (name, translator) in enumerate(translators.items()):

        def advance(share: float, leg: int = 0, at: int = at) -> None:
            if on_progress is not None:
                on_progress((at + (leg + share) / legs) / len(translators))

        vectors, looked = bench.translate(translator)
        place = Path(folder).expanduser() / name.replace("/", "-")
        made = make_sounds(
            pipeline,
            vectors,
            place,
            [image_item.name for image_item in image_items.image_items],
            seed=seed,
            num_inference_steps=num_inference_steps,
            audio_length_in_s=audio_length_in_s,
            batch_size=batch_size,
            advance=advance,
        )
        ends = round_trip and back_to_pictures(
            round_trip,
            made.files,
            place / "back",
            seed=seed,
            batch_size=batch_size,
            advance=lambda share, advance=advance: advance(share, 1),
        )
        results.append(bench.measure(name, made, vectors, looked, ends))
    return AudioEvaluation(
        clap=clap.space("audio").model_id,
        classifier=None if bench.classifier is None else bench.classifier.name,
        real=bench.real(),
        translators=results,
        per_row=bench.per_row,
        notes=bench.notes(),
    )


def audio_results(
    evaluation: AudioEvaluation, image_items: ImageDataset, *, images: str, pipeline: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bring an evaluation of sounds into the form of `results.json` and `results.npz`."""
    figures = {
        "protocol": image_items.protocol,
        "images": images,
        "pipeline": pipeline,
        "fingerprint": f"{image_items.fingerprint()} {evaluation.clap} {evaluation.classifier}",
        "rows": len(image_items.image_items),
        "recordings": len(image_items.recordings),
        "kinds": image_items.labels,
        "clap": evaluation.clap,
        "classifier": evaluation.classifier,
        "real": evaluation.real and asdict(evaluation.real),
        "translators": [
            {
                "scores": asdict(one.scores),
                "wrong_picture": asdict(one.wrong_picture),
                "confusion": one.confusion,
                "round_trip": one.round_trip and asdict(one.round_trip),
            }
            for one in evaluation.translators
        ],
        "notes": evaluation.notes,
    }
    names = np.array([image_item.name for image_item in image_items.image_items])
    per_row = {"ids": names, "items": np.arange(len(names)), **evaluation.per_row}
    return figures, {f"sounds/{name}": values for name, values in per_row.items()}


class _Bench:
    """The photographs and recordings, and what they are measured with."""

    def __init__(
        self,
        pipeline: ImageToAudioPipeline,
        image_items: ImageDataset,
        clap: ClapEncoder,
        classifier: Classifier | None,
        back: Translator | None,
        resamples: int,
    ):
        assert pipeline.clip is not None
        self.clip = pipeline.clip
        self.image_items, self.clap, self.back = image_items, clap, back
        self.classifier = classifier if len(image_items.labels) > 1 else None
        generator_clap = pipeline.config["clap_space"]
        self.is_own_clap = generator_clap is not None and EmbeddingSpace.from_dict(
            generator_clap
        ).same_model_as(clap.space("audio"))
        self.draws = Resamples(range(len(image_items.image_items)), resamples=resamples)
        start = time.perf_counter()
        self.image_embeds = see_files(
            self.clip, [image_item.photograph for image_item in image_items.image_items]
        )
        self.looking = (time.perf_counter() - start) / len(image_items.image_items)
        self.words = [image_item.words for image_item in image_items.image_items]
        self.labels = [image_item.label for image_item in image_items.image_items]
        several = len(image_items.labels) > 1
        self.others = other_items(
            [
                image_item.label if several else image_item.name
                for image_item in image_items.image_items
            ],
            seed=0,
        ).tolist()
        self.per_row: dict[str, np.ndarray] = {}
        sounds = [recording.path for recording in image_items.recordings]
        heard = self._hear(sounds)
        self.real_embeds, self.real_windows, self.real_places, self.real_kinds = heard

    @torch.no_grad()
    def translate(self, translator: Translator) -> tuple[Tensor, float]:
        """Give the translated vectors, and the seconds a photograph took until there."""
        start = time.perf_counter()
        vectors = translator(self.image_embeds.to(translator.device)).float().cpu()
        return vectors, self.looking + (time.perf_counter() - start) / len(vectors)

    def measure(
        self, name: str, made: MadeFiles, vectors: Tensor, looked: float, ends: MadeFiles | None
    ) -> GeneratedAudio:
        """Measure sounds against their own photographs and against wrong ones."""
        embeds, windows, _, kinds = self._hear(made.files)
        apart: dict[str, float | None] = {"fd": None, "fad": None, "kd": None}
        if len(self.real_embeds) > 1:
            apart = _distances(embeds, windows, self.real_embeds, self.real_windows)
        seconds = looked + made.seconds_each

        def score(name: str, order: list[int], seconds: float | None) -> AudioScores:
            rows = self._rows(embeds, kinds, vectors, order)
            self.per_row |= {f"{name}/{figure}": values for figure, values in rows.items()}
            return AudioScores(
                name=name,
                clips=len(embeds),
                fd=apart["fd"],
                fad=apart["fad"],
                kd=apart["kd"],
                clap_score=self._mean(rows, "clap_score"),
                translated=self._mean(rows, "translated"),
                classifier=self.draws.share(rows["classifier"]) if "classifier" in rows else None,
                clip_score=self._mean(rows, "clip_score"),
                seconds=seconds,
            )

        return GeneratedAudio(
            scores=score(name, list(range(len(embeds))), seconds),
            wrong_picture=score(f"{name}/wrong picture", self.others, None),
            confusion=None if kinds is None else self._confusion(kinds),
            round_trip=ends and self._round_trip(name, ends),
            files=made.files,
        )

    def real(self) -> AudioScores | None:
        """Measure the recordings, one half against the other."""
        recordings = self.image_items.recordings
        if len(recordings) < 4:
            return None
        # Every other one: neighbours in the order of names are of one kind.
        half = np.arange(len(recordings)) % 2 == 0
        windows, places = self.real_windows, half[self.real_places]
        apart = _distances(
            self.real_embeds[half], windows[places], self.real_embeds[~half], windows[~places]
        )
        embeds = torch.from_numpy(self.real_embeds)
        draws = Resamples(range(len(recordings)), resamples=self.draws.resamples)
        clap_score = classifier = None
        if all(recording.words for recording in recordings):
            texts = self.clap.encode_text([recording.words or "" for recording in recordings])
            clap_score = draws.mean((embeds * texts).sum(1).numpy())
        if self.real_kinds is not None and all(recording.label for recording in recordings):
            right = [
                kind == recording.label
                for kind, recording in zip(self.real_kinds, recordings, strict=True)
            ]
            classifier = draws.share(np.array(right))
        return AudioScores(
            name="real recordings",
            clips=len(recordings),
            fd=apart["fd"],
            fad=apart["fad"],
            kd=apart["kd"],
            clap_score=clap_score,
            translated=None,
            classifier=classifier,
            clip_score=None,
            seconds=None,
        )

    def notes(self) -> list[str]:
        """Say what the figures hang on."""
        found = []
        if self.is_own_clap:
            found.append(
                "The measuring CLAP is the one the generator listens to, which flatters the "
                "sounds. Give another with --clap."
            )
        if len(self.image_items.recordings) > 1:
            found.append(
                "Distances are from all recordings; the recordings' own are between two halves, "
                "so their Fréchet distances are too high for their number. Compare kernel "
                "distances across sets of unlike size."
            )
        else:
            found.append("There are no recordings, so there is no distance from real sounds.")
        found.append(
            "Fréchet distances in this CLAP can't be compared with published ones in PANNs or "
            "VGGish."
        )
        return found

    def _hear(
        self, files: Sequence[Path]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str] | None]:
        """Embed sounds, also second by second, and have their kinds named.

        Returns:
            Vectors (n, d); vectors of windows (m, d), the sound each is of (m,); and kinds.
        """
        embeds, windows, places, classifier = [], [], [], self.classifier
        kinds: list[str] | None = None if classifier is None else []
        for start, part in enumerate(parts(files, SOUNDS_AT_ONCE)):
            sounds = [load_audio(file) for file in part]
            heard = self.clap.encode_audio(sounds)
            embeds.append(heard)
            for at, sound in enumerate(sounds, start * SOUNDS_AT_ONCE):
                cut = _windows(sound)
                windows.append(self.clap.encode_audio(cut))
                places += [at] * len(cut)
            if classifier is not None and kinds is not None:
                kinds += classifier(sounds, heard)
        if not embeds:
            nothing = np.empty((0, self.clap.space("audio").dim), np.float32)
            return nothing, nothing, np.empty(0, np.int64), kinds
        return torch.cat(embeds).numpy(), torch.cat(windows).numpy(), np.array(places), kinds

    def _rows(
        self, embeds: np.ndarray, kinds: list[str] | None, vectors: Tensor, order: list[int]
    ) -> dict[str, np.ndarray]:
        """Hold each sound against what belongs to the photograph at `order`."""
        heard, rows = torch.from_numpy(embeds), {}
        if all(self.words):
            texts = self.clap.encode_text([self.words[at] or "" for at in order])
            rows["clap_score"] = (heard * texts).sum(1).numpy()
        if self.is_own_clap:
            told = torch.nn.functional.normalize(vectors[order], dim=1)
            rows["translated"] = (heard * told).sum(1).numpy()
        if kinds is not None:
            rows["classifier"] = np.array(
                [kind == self.labels[at] for kind, at in zip(kinds, order, strict=True)]
            )
        if self.back is not None:
            with torch.no_grad():
                seen = self.back(heard).float()
            rows["clip_score"] = 100 * (seen * self.image_embeds[order]).sum(1).numpy()
        return rows

    def _round_trip(self, name: str, back: MadeFiles) -> RoundTrip:
        """Hold the ends of round trips against the photographs, in the CLIP that saw these."""
        ends = see_files(self.clip, back.files)
        found, rows = measure_round_trip(
            self.image_embeds,
            ends,
            labels=[label or "" for label in self.labels]
            if len(self.image_items.labels) > 1
            else None,
            others=self.others,
            draws=self.draws,
        )
        self.per_row |= {f"{name}/{figure}": values for figure, values in rows.items()}
        return found

    def _confusion(self, kinds: Sequence[str]) -> list[list[int]]:
        names = self.image_items.labels
        return confusion_matrix(self.labels, kinds, labels=names).tolist()

    def _mean(self, rows: Mapping[str, np.ndarray], figure: str) -> Estimate | None:
        return self.draws.mean(rows[figure]) if figure in rows else None


def _distances(
    embeds: np.ndarray,
    windows: np.ndarray,
    reference: np.ndarray,
    reference_windows: np.ndarray,
) -> dict[str, float | None]:
    return {
        "fd": frechet_distance(embeds, reference),
        "fad": frechet_distance(windows, reference_windows),
        "kd": kernel_distance(embeds, reference),
    }


def _windows(sound: Sound) -> list[Sound]:
    """Cut a sound into windows of a second; what is left over at the end is left out."""
    waveform, sampling_rate = sound
    length = round(WINDOW_SECONDS * sampling_rate)
    count = max(len(waveform) // length, 1)
    return [(waveform[at * length : (at + 1) * length], sampling_rate) for at in range(count)]
