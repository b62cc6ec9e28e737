"""Sizes that the headers of containers state, for detecting files that were cut off."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

# Sizes of a WAV of unknown length are at the limit of 31 or 32 bits, less a header or a buffer.
UNKNOWN_SIZES = (2**31, 2**32)
UNKNOWN_MARGIN = 0x1000
# Of 64 bits, negative numbers and the largest are no lengths either.
_UNKNOWN_LONG_SIZE = 2**62
# Bytes that some writers count as samples, or that tag editors strip without correcting the count.
_MISCOUNTED = 128
# Some writers count the header of a WAV as well, where it is a short one.
_LONGEST_COUNTED_HEADER = 256
# Zeros are chunks of no length, of which a file may hold any number.
_MOST_CHUNKS = 100_000
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_W64_HEADER = 40


def is_cut_off(file: BinaryIO) -> bool:
    """Return True if a file is shorter than the header of its container says."""
    file.seek(0)
    head = file.read(32)
    size = file.seek(0, io.SEEK_END)
    for place, marks, stated_end in _CONTAINERS:
        if head.startswith(marks, place):
            return stated_end(file) > size
    return False


def chunks(
    file: BinaryIO, place: int, header: str, *, is_counted: bool = False, alignment: int = 1
) -> Iterator[tuple[bytes, int, int]]:
    """Yield chunks' marks, where their contents begin, and the lengths of these.

    Args:
        file: An opened file.
        place: Where the first chunk begins.
        header: Its mark and length, as `struct` spells them.
        is_counted: True if the length is that of the header as well.
        alignment: Bytes of which a chunk fills a multiple.
    """
    layout = struct.Struct(header)
    size = file.seek(0, io.SEEK_END)
    for _ in range(_MOST_CHUNKS):
        if place + layout.size > size:
            return
        file.seek(place)
        mark, length = layout.unpack(file.read(layout.size))
        place += layout.size
        length -= layout.size if is_counted else 0
        if not 0 <= length < _UNKNOWN_LONG_SIZE:
            return
        yield mark, place, length
        place += length + -length % alignment


def wav_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks of a WAV or AVI as `chunks` does."""
    file.seek(0)
    return chunks(file, 12, ">4sI" if file.read(4) == b"RIFX" else "<4sI", alignment=2)


def _is_unknown(length: int) -> bool:
    return any(abs(length - limit) <= UNKNOWN_MARGIN for limit in UNKNOWN_SIZES)


def _end_of_wav(file: BinaryIO) -> int:
    long_size = 0
    for mark, start, length in wav_chunks(file):
        if mark == b"ds64":
            file.seek(start + 8)
            long_size = int.from_bytes(file.read(8), "little")
        if mark == b"data":
            if length == 2**32 - 1 and 0 < long_size < 2**63:
                length = long_size
            elif _is_unknown(length):
                return 0
            return start + length - max(_MISCOUNTED, min(start, _LONGEST_COUNTED_HEADER))
    return 0


def _end_of_riff(file: BinaryIO) -> int:
    """Return the end of a WAV's samples, or of the last list of an AVI: one holds its packets."""
    file.seek(8)
    form = file.read(4)
    if form != b"AVI ":
        return _end_of_wav(file) if form == b"WAVE" else 0
    return max(
        (
            start + length - _MISCOUNTED
            for mark, start, length in wav_chunks(file)
            if mark in (b"LIST", b"RIFF") and not _is_unknown(length)
        ),
        default=0,
    )


def _end_of_caf(file: BinaryIO) -> int:
    return _end_of_chunk(chunks(file, 8, ">4sq"), b"data")


def _end_of_w64(file: BinaryIO) -> int:
    return _end_of_chunk(chunks(file, _W64_HEADER, "<16sq", is_counted=True, alignment=8), b"data")


def _end_of_asf(file: BinaryIO) -> int:
    return _end_of_chunk(chunks(file, 0, "<16sq", is_counted=True), _ASF_DATA)


def _end_of_chunk(found: Iterator[tuple[bytes, int, int]], wanted: bytes) -> int:
    ends = (place + size - _MISCOUNTED for mark, place, size in found if mark.startswith(wanted))
    return next(ends, 0)


def _end_of_voc(file: BinaryIO) -> int:
    place = 26
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(4)
        # A block of type 0 ends the file.
        if len(head) < 4 or not head[0]:
            break
        place += 4 + int.from_bytes(head[1:], "little")
    return place


def _end_of_fragments(file: BinaryIO) -> int:
    """Return the end of an MP4's last fragment, or 0: tracks without fragments have durations."""
    end, stated, is_fragmented = 0, 0, False
    size = file.seek(0, io.SEEK_END)
    for _ in range(_MOST_CHUNKS):
        if end >= size:
            break
        file.seek(end)
        head = file.read(16).ljust(16, b"\0")
        length, mark = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            break
        end += length
        is_fragmented |= mark == b"moof"
        if is_fragmented and mark in (b"moof", b"mdat"):
            stated = end
    return stated


def _end_of_segment(file: BinaryIO) -> int:
    """Return the end of a Matroska's segment, which holds all but a header; 0 if it is unknown."""
    end = 0
    for mark in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        file.seek(end)
        head = file.read(12)
        if head[:4] != mark or not any(head[4:5]):
            return 0
        # Zeros before the first bit count the bytes that follow.
        width = 9 - head[4].bit_length()
        most = (1 << 7 * width) - 1
        length = int.from_bytes(head[4 : 4 + width], "big") & most
        if length == most:
            return 0
        end += 4 + width + length
    return end


# Where a container's marks are, these marks, and where its contents end by its header: at 0 if that
# is unknown.
_CONTAINERS = (
    (0, (b"RIFF", b"RIFX", b"RF64", b"BW64"), _end_of_riff),
    (0, b"caff", _end_of_caf),
    (0, b"riff\x2e\x91", _end_of_w64),
    (0, b"\x30\x26\xb2\x75", _end_of_asf),
    (0, b"\x1aE\xdf\xa3", _end_of_segment),
    (0, b"Creative Voice File", _end_of_voc),
    (4, (b"ftyp", b"styp"), _end_of_fragments),
)
