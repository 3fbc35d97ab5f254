"""This module names the kind of a file: from its suffix, or from its first bytes."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif")
SIGNATURES = {
    "a ZIP archive: unpack it first": (b"pk\x03\x04",),
    "a gzip archive: unpack it first": (b"\x1f\x8b",),
    "a PDF": (b"%pdf",),
    "a Parquet file": (b"par1",),
    "a Git LFS pointer, not the file itself: run `git lfs pull`": (b"version https://git-lfs",),
    "a PNG picture": (b"\x89png",),
    "a JPEG picture": (b"\xff\xd8\xff",),
    "a GIF picture": (b"gif8",),
    "an Arrow file": (b"arrow1",),
    "a SQLite database": (b"sqlite format",),
    "a web page: the download gave a page in place of the file": (b"<!doctype html", b"<html"),
    "JSON text": (b"{", b"["),
    "XML text": (b"<?xml", b"<annotation"),
}
"""Kind of file -> how it starts, in lower case and after the white space and the byte-order mark of a text."""
HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")


def kind_of_file(path: Path) -> str:
    """Name the kind of a file from its first bytes; "" if they are not known.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.jpg").write_text("<!DOCTYPE html><html>")
    ...     kind_of_file(Path(folder) / "a.jpg")
    'a web page: the download gave a page in place of the file'
    """
    if path.is_dir():
        return "a folder"
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        return "a HEIC picture" if start[8:12] in HEIC else "a video (MP4)"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for kind, signatures in SIGNATURES.items() if text.startswith(signatures)), "")
