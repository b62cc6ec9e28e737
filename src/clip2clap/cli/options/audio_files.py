"""Options of the audio files that a verb writes."""

from typing import TYPE_CHECKING, Literal

from clip2clap.cli.command import Options, option

if TYPE_CHECKING:
    from clip2clap.media.writing import AudioFileOptions

AudioFormat = Literal["wav", "flac", "ogg", "mp3", "opus"]
BitDepthName = Literal["16", "24", "float"]


class AudioFiles(Options, panel="Files"):
    """Format, sampling rate, channels and level of audio files."""

    audio_format: AudioFormat | None = option(
        "Audio file format; by default that of the file name, else wav.",
        was="--format",
        api="format",
    )
    sampling_rate: int | None = option(
        "Sampling rate, such as 44100 or 48000; by default the generator's.",
        "HZ",
        api="output_sampling_rate",
    )
    channels: int | None = option(
        "1, or 2 for stereo that is decorrelated from mono and gives the mono back when mixed; by "
        "default 1.",
        min=1,
        max=2,
    )
    bit_depth: BitDepthName | None = option(
        "Bits per sample of wav (16, 24, float) and flac (16, 24); by default 16."
    )
    loudness: float | None = option(
        "Integrated loudness, such as -23 (EBU R 128); by default the level is kept.", "LUFS"
    )
    true_peak: float | None = option(
        "Largest true peak, which limits the loudness; by default -1 with --loudness, else what "
        "does not clip.",
        "DBTP",
    )
    fade_s: float = option(
        "Length of the fade-in and of the fade-out, in seconds; 0 for none.",
        "S",
        default=0.005,
        min=0,
    )


def audio_file_options(options: AudioFiles) -> "AudioFileOptions":
    """Return the options that `write_audio` takes, which are checked.

    Raises:
        UserError: If a value is out of its range, or the format cannot have it.
    """
    from clip2clap.media.writing import AudioFileOptions

    depth = options.bit_depth
    return AudioFileOptions(
        format=options.audio_format,
        output_sampling_rate=options.sampling_rate,
        channels=options.channels,  # pyright: ignore[reportArgumentType]
        bit_depth="float" if depth == "float" else depth and int(depth),  # pyright: ignore[reportArgumentType]
        loudness=options.loudness,
        true_peak=options.true_peak,
        fade_s=options.fade_s,
    )
