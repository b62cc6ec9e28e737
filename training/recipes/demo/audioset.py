"""YAMNet as a judge: its embeddings, and ranking of recordings by AudioSet's names.

The demo CLAP, by text, and YAMNet itself are measured on recordings whose class is known, by the
names that describe a class (`audioset.toml`), as the mean of the names' average precisions
(Gemmeke et al. 2017, https://doi.org/10.1109/ICASSP.2017.7952261).
"""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.metrics.classification import AUDIO_PROMPT
from clip2clap.models.yamnet_clap import YamnetFeatureExtractor
from clip2clap.training.recipes.demo import pretrained

_WIDTH = 1024
_NAMES: dict[str, list[tuple[int, str]]] = tomllib.loads(
    Path(__file__).with_name("audioset.toml").read_text(encoding="utf-8")
)


def compare_precision(
    categories: Sequence[str],
    scores: Tensor,
    embeds: Tensor,
    encode_text: Callable[[list[str]], Tensor],
) -> dict[str, float]:
    """Compare a CLAP with YAMNet in ranking recordings by AudioSet's names.

    Args:
        categories: Category of each recording, of ESC-50 or of the Animal Sound Dataset.
        scores: YAMNet's scores of them, shape (n, 521).
        embeds: Their CLAP embeddings, shape (n, d), unit norm.
        encode_text: Encodes texts into the CLAP's space.
    """
    names = names_of(categories)
    texts = encode_text([AUDIO_PROMPT.format(name) for name in names])
    numbers, described = zip(*names.values(), strict=True)
    truth = torch.stack(described, dim=1)
    return {
        "AudioSet names": len(names),
        "CLAP mean average precision, AudioSet names": mean_average_precision(
            embeds @ texts.T, truth
        ),
        "CLAP mean average precision, other AudioSet names": mean_average_precision(
            embeds @ texts.roll(len(names) // 2, 0).T, truth
        ),
        "YAMNet mean average precision, AudioSet names": mean_average_precision(
            scores[:, list(numbers)], truth
        ),
    }


def names_of(categories: Sequence[str]) -> dict[str, tuple[int, Tensor]]:
    """Return the names that describe any of the recordings.

    Args:
        categories: Category of each recording, of ESC-50 or of the Animal Sound Dataset.

    Returns:
        YAMNet's number of each name, and which of the recordings it describes, shape (n,), bool.
    """
    found: dict[str, tuple[int, Tensor]] = {}
    for row, category in enumerate(categories):
        for number, name in _NAMES.get(category, []):
            _, described = found.setdefault(name, (number, torch.zeros(len(categories)).bool()))
            described[row] = True
    return found


@torch.inference_mode()
def yamnet_scores(data: Path, waveforms: Sequence[np.ndarray]) -> Tensor:
    """Compute YAMNet's own scores of its 521 classes, shape (n, 521), averaged over patches.

    Args:
        data: The data folder, which has YAMNet's weights.
        waveforms: Mono float32 samples at 16 kHz.
    """
    network, classifier = pretrained.yamnet(data), pretrained.yamnet_classifier(data)
    extractor = YamnetFeatureExtractor()
    scores = []
    for waveform in waveforms:
        (features,) = extractor([waveform])["input_features"]
        patches = features.unfold(0, network.patch_frames, network.patch_frames // 2)
        # The network returns roots of the activations of several layers, the last of them last.
        roots = network(patches.transpose(1, 2))[:, -classifier.in_features :]
        scores.append(classifier(roots.square()).sigmoid().mean(dim=0))
    return torch.stack(scores)


@torch.inference_mode()
def yamnet_embeds(data: Path, waveforms: Tensor) -> Tensor:
    """Compute YAMNet's embeddings (n, 1024) of waveforms (n, samples), averaged over time."""
    network, extractor = pretrained.yamnet(data), YamnetFeatureExtractor()
    parts = [
        network(extractor(list(part.numpy()))["input_features"]) for part in waveforms.split(16)
    ]
    # The last of its layers, whose outputs are side by side.
    return torch.cat(parts)[:, -_WIDTH:]


def mean_average_precision(scores: Tensor, described: Tensor) -> float:
    """Compute the mean over names of their average precision.

    Args:
        scores: Score of each recording for each name, shape (recordings, names).
        described: Which recordings a name describes, same shape, bool.
    """
    from sklearn.metrics import average_precision_score

    pairs = zip(described.T.numpy(), scores.T.numpy(), strict=True)
    return float(np.mean([average_precision_score(truth, score) for truth, score in pairs]))
