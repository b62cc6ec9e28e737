"""Protocols of zero-shot classification, and published results to compare with.

One checkpoint has several published accuracies on ESC-50, which differ by the words of a prompt and
by the loading of audio alone. Importing this module is cheap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clip2clap.core.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """Prompts of the labels, and loading of the audio."""

    name: str
    """Name in options and reports."""

    template: str
    """Prompt of a label, with one `{}`."""

    source: str
    """Code or paper that the protocol is taken from."""

    identifiers: tuple[str, ...] = ()
    """Data sets whose labels stay as their files have them, with underscores for spaces."""

    int16: bool = False
    """Whether the resampled audio is rounded to 16 bits before preprocessing."""

    def prompts(self, dataset: str, labels: Sequence[str]) -> list[str]:
        """Return the prompt of each of a data set's labels, which are as in its files."""
        keep = dataset in self.identifiers
        words = [label if keep else label.replace("_", " ") for label in labels]
        return [self.template.replace("{}", word) for word in words]

    def describe(self, dataset: str) -> str:
        """Describe the protocol in one line."""
        label = "labels as in the data set's file" if dataset in self.identifiers else "words"
        audio = "resampled, rounded to 16 bits" if self.int16 else "resampled"
        return (
            f'prompt "{self.template}" with {label}; audio {audio}, then preprocessed as the '
            f"checkpoint says; {self.source}"
        )


PROTOCOLS = {
    each.name: each
    for each in (
        Protocol("clip2clap", "the sound of a {}", "the default of clip2clap classify"),
        Protocol(
            "laion",
            "This is a sound of {}",
            "LAION-AI/CLAP experiment_scripts/esc50_api.py",
            int16=True,
        ),
        Protocol(
            "transformers",
            "This is a sound of {}.",
            "the zero-shot-audio-classification pipeline's default",
        ),
        Protocol(
            "mteb",
            "This is a sound of {}",
            "mteb's ESC50_Zeroshot and UrbanSound8kZeroshot",
            identifiers=("esc50",),
        ),
        Protocol(
            "msclap",
            "this is the sound of {}",
            "microsoft/CLAP examples/zero_shot_classification.py",
        ),
        Protocol("audioclip", "{}", "AudioCLIP's utils/datasets: the label alone"),
    )
}
"""Protocols by name."""


def choose_protocols(names: Sequence[str]) -> list[Protocol]:
    """Return the protocols of some names, `all` for every one, each once.

    Raises:
        UserError: If there is no such protocol.

    Examples:
        >>> [each.template for each in choose_protocols(["laion", "transformers"])]
        ['This is a sound of {}', 'This is a sound of {}.']
    """
    chosen: list[str] = []
    for name in names:
        if name not in (*PROTOCOLS, "all"):
            raise UserError(
                f"Expected protocol to be all or one of {', '.join(PROTOCOLS)}, got {name!r}.",
                param="protocol",
            )
        chosen += list(PROTOCOLS) if name == "all" else [name]
    return [PROTOCOLS[name] for name in dict.fromkeys(chosen)]


@dataclass(frozen=True)
class Published:
    """Published accuracy, with its protocol and source."""

    model: str
    method: str
    """`zero-shot`, `linear probe` or `fine-tuned`."""

    accuracy: float
    """In percent."""

    protocol: str
    source: str


_AUDIOCLIP = "arXiv 2106.13043, abstract"
_MSCLAP = "arXiv 2206.04769"
_PROBES = "LAION-AI/CLIP_benchmark, pull request 148"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "esc50": (
        Published("AudioCLIP", "zero-shot", 69.40, "audioclip", _AUDIOCLIP),
        Published("Wav2CLIP", "zero-shot", 41.4, "the paper's own", "arXiv 2110.11499"),
        Published(
            "ImageBind", "zero-shot", 66.9, "the paper's own", "facebookresearch/ImageBind, README"
        ),
        Published(
            "MS-CLAP 2022",
            "zero-shot",
            82.6,
            '"This is a sound of {}"',
            f"{_MSCLAP}, quoted by its author in microsoft/CLAP issue 8",
        ),
        Published("MS-CLAP 2023", "zero-shot", 93.9, "msclap", "microsoft/CLAP, README"),
        Published(
            "LAION-CLAP, best",
            "zero-shot",
            91.0,
            "laion",
            "arXiv 2211.06687, quoted by LAION-AI/CLAP issue 133",
        ),
        Published("clap-htsat-unfused", "zero-shot", 91.55, "transformers", "pymill.com"),
        Published("clap-htsat-unfused", "zero-shot", 94.76, "mteb", "MAEB, quoted by pymill.com"),
        Published(
            "LAION-CLAP 630k-audioset-best",
            "linear probe",
            97.0,
            "one test fold",
            _PROBES,
        ),
        Published("AudioCLIP", "fine-tuned", 97.15, "5 folds", _AUDIOCLIP),
    ),
    "us8k": (
        Published("AudioCLIP", "zero-shot", 68.78, "audioclip", _AUDIOCLIP),
        Published("MS-CLAP 2022", "zero-shot", 73.24, '"This is a sound of {}"', _MSCLAP),
        Published("clap-htsat-unfused", "zero-shot", 75.16, "transformers", "pymill.com"),
        Published(
            "LAION-CLAP 630k-audioset-best",
            "linear probe",
            88.89,
            "fold 10 alone",
            _PROBES,
        ),
        Published("AudioCLIP", "fine-tuned", 90.07, "10 folds", _AUDIOCLIP),
    ),
}
"""Published accuracies by data set."""

TRAINED_ON: dict[tuple[str, str], tuple[int, ...]] = {("demo", "esc50"): (1, 2, 3)}
"""Official folds that an encoder was trained on, by its name and the data set's."""
