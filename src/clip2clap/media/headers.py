"""Headers of audio and video files, for detecting truncated files."""

import io
from typing import BinaryIO

_UNKNOWN_RIFF_SIZES = (0, 0xFFFFFFFF)
_OGG_END_FLAG = 4


def is_media(file: BinaryIO) -> bool:
    """Return True if a file starts as audio and video files do."""
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b"ftyp" or head.startswith(
        (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"\x1aE\xdf\xa3")
    )


def is_truncated(file: BinaryIO) -> bool:
    """Return True if a file is shorter than its header says; decoders ignore that."""
    head = file.read(2**13)
    size = file.seek(0, io.SEEK_END)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _riff_end(head) > size
    if head[:4] == b"OggS":
        file.seek(max(0, size - 2**17))
        tail = file.read()
        last = tail.rfind(b"OggS")
        return last < 0 or not tail[last + 5 : last + 6] or not tail[last + 5] & _OGG_END_FLAG
    return _mp3_end(head) > size


def _riff_end(head: bytes) -> int:
    """Return where a WAV's samples end by its header; 0 if unknown."""
    place = 12
    while place + 8 <= len(head):
        length = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"data":
            return 0 if length in _UNKNOWN_RIFF_SIZES else place + 8 + length
        place += 8 + length + length % 2
    return 0


def _mp3_end(head: bytes) -> int:
    """Return where an MP3 ends by the Xing header in its first frame; 0 if unknown."""
    if head[:3] != b"ID3" and (len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0):
        return 0
    for mark in (b"Xing", b"Info"):
        place = head.find(mark)
        if place >= 0 and head[place + 7 : place + 8] and head[place + 7] & 2:
            field = place + 8 + (4 if head[place + 7] & 1 else 0)
            return int.from_bytes(head[field : field + 4], "big")
    return 0
