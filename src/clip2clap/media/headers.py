"""Headers of audio files, for detecting truncated ones, which decoders read in silence."""

import functools
import io
import math
import re
import struct
from typing import BinaryIO

from clip2clap.media.sizes import UNKNOWN_MARGIN, UNKNOWN_SIZES, chunks, wav_chunks

_MEDIA = (
    *(b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff"),
    b"\x1aE\xdf\xa3",
)
# SoX writes this into an AIFF, less what is no whole sample.
_SOX_UNKNOWN_SIZE = 0x7F000000
# Mark, version, flags, and a length of four digits of 7 bits.
_ID3 = re.compile(rb"ID3[\2-\4].{2}[\0-\x7f]{4}", re.DOTALL)
# Form of a WAV's format that states how many of each sample's bits are used.
_EXTENSIBLE = 0xFFFE
_OGG_BEGIN_FLAG = 2
_OGG_HEADER = 27

# Bit rates in kbit/s by MPEG version (1, others) and layer (1, 2, 3).
_BIT_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_DOLBY_BIT_RATES = (*_BIT_RATES[1, 3], 384, 448, 512, 576, 640)


def is_media(file: BinaryIO) -> bool:
    """Return True if a file starts as audio and video files do."""
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b"ftyp" or head.startswith(_MEDIA)


def is_padded_wav(file: BinaryIO) -> bool:
    """Return True if a WAV's samples take more bytes than their bits fill.

    FFmpeg reads the bits alone, or takes them for floats.
    """
    file.seek(0)
    if file.read(4) not in (b"RIFF", b"RF64", b"BW64") or file.read(8)[4:] != b"WAVE":
        return False
    place = next((place for mark, place, _ in wav_chunks(file) if mark == b"fmt "), 0)
    file.seek(place)
    format = file.read(26)
    if len(format) < 26:
        return False
    tag, channels, _, _, block, bits, _, valid, _, codec = struct.unpack("<HHIIHHHHIH", format)
    is_plain = (tag, codec) == (_EXTENSIBLE, 1) and block == (bits + 7) // 8 * channels
    return is_plain and 0 < (valid + 7) // 8 < (bits + 7) // 8


def flac_samples(header: bytes) -> int:
    """Return the samples of each channel by a FLAC's STREAMINFO, 0 if it does not say."""
    return int.from_bytes(header[13:18], "big") & (2**36 - 1)


def read_ogg(file: BinaryIO) -> tuple[list[int], bool]:
    """Return where the Vorbis streams of an Ogg begin, and whether its last page is whole.

    There is one stream, or more in a chain. The list is empty if any is not Vorbis, or if two are
    interleaved. Many recorders never flag a page as the last, so that the flag shows nothing.
    """
    size = file.seek(0, io.SEEK_END)
    starts, place, is_vorbis, begins = [], 0, True, False
    while True:
        file.seek(place)
        page = file.read(_OGG_HEADER)
        if page[:4] != b"OggS":
            # Whatever follows the last page is no audio.
            return starts if is_vorbis else [], True
        segments = file.read(page[-1]) if len(page) == _OGG_HEADER else b""
        end = place + _OGG_HEADER + len(segments) + sum(segments)
        if len(page) < _OGG_HEADER or len(segments) < page[-1] or end > size:
            return [], False
        was_beginning, begins = begins, bool(page[5] & _OGG_BEGIN_FLAG)
        if begins:
            starts.append(place)
            is_vorbis &= not was_beginning and file.read(7) == b"\x01vorbis"
        place = end


def is_endless(file: BinaryIO) -> bool:
    """Return True if a CAF or AIFF of a stream does not say how long its samples are."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"FORM":
        return _is_endless_aiff(file)
    if head[:4] != b"caff":
        return False
    file.seek(8)
    while len(head := file.read(12)) == 12:
        length = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data" or length < 0:
            return length == -1
        file.seek(length, io.SEEK_CUR)
    return False


def _is_endless_aiff(file: BinaryIO) -> bool:
    for mark, start, _ in chunks(file, 12, ">4sI", alignment=2):
        if mark == b"COMM":
            file.seek(start)
            channels, frames, bits = struct.unpack(">HIH", file.read(8).ljust(8, b"\0"))
            size = frames * channels * ((bits + 7) // 8)
            return any(
                limit - UNKNOWN_MARGIN <= count < limit + UNKNOWN_MARGIN
                for limit in (_SOX_UNKNOWN_SIZE, *UNKNOWN_SIZES)
                for count in (frames, size)
            )
    return False


def missing_mp3_bytes(file: BinaryIO) -> float | None:
    """Return the bytes that an MP3 lacks by the Xing or VBRI header in its first frame.

    Infinity if the header does not count bytes; None without such a header.
    """
    file.seek(0)
    start = id3_end(file.read(10))
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = file.read(2**12)
    for mark in (b"Xing", b"Info", b"VBRI"):
        place = head.find(mark)
        if place >= 0 and place + 16 <= len(head):
            flags = head[place + 7]
            field = place + (10 if mark == b"VBRI" else 8 + 4 * (flags & 1))
            end = start + int.from_bytes(head[field : field + 4], "big")
            return end - size if mark == b"VBRI" or flags & 2 else math.inf
    return None


def id3_end(data: bytes) -> int:
    """Return where the first ID3v2 tag in some bytes ends, which may be beyond them; or 0."""
    if not (found := _ID3.search(data)):
        return 0
    flags, *digits = found[0][5:]
    length = functools.reduce(lambda length, digit: length << 7 | digit, digits)
    # A footer repeats the header.
    return found.end() + length + (10 if flags & 0x10 else 0)


def is_whole_mpeg_frame(frame: bytes) -> bool:
    """Return True unless an MPEG audio frame is shorter than its header says."""
    if len(frame) < 4:
        return False
    version, layer = 1 if frame[1] & 8 else 2, 4 - (frame[1] >> 1 & 3)
    rate, sampling = frame[2] >> 4, frame[2] >> 2 & 3
    if frame[0] != 0xFF or not 0 < rate < 15 or sampling == 3 or layer == 4:
        return True
    bits = _BIT_RATES[version, layer][rate - 1] * 1000
    # MPEG 2 halves the sampling rates, MPEG 2.5 halves them again.
    halved = 0 if version == 1 else 1 if frame[1] & 0x10 else 2
    hertz = (44_100, 48_000, 32_000)[sampling] >> halved
    if layer == 1:
        return len(frame) >= 12 * bits // hertz * 4
    samples = 576 if layer == 3 and version == 2 else 1152
    return len(frame) >= samples // 8 * bits // hertz


def is_whole_dolby_frame(frame: bytes) -> bool:
    """Return True unless an AC-3 or E-AC-3 frame is shorter than its header says."""
    if len(frame) < 6 or frame[:2] != b"\x0b\x77":
        return len(frame) >= 6
    if frame[5] >> 3 > 10:  # E-AC-3
        return len(frame) >= 2 * ((frame[2] & 7) << 8 | frame[3]) + 2
    sampling, code = frame[4] >> 6, frame[4] & 0x3F
    if sampling == 3 or code >> 1 >= len(_DOLBY_BIT_RATES):
        return True
    bits = _DOLBY_BIT_RATES[code >> 1] * 1000
    words = 1536 * bits // (48_000, 44_100, 32_000)[sampling] // 16
    return len(frame) >= 2 * (words + (code & 1))
