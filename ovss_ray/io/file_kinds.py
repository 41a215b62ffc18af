"""Descriptions of files that cannot be decoded, for error messages. The first bytes of a file show the file's kind."""

BEGINNINGS = {
    b"version https://git-lfs": "it is a Git LFS pointer; type `git lfs pull` in its repository",
    b"PF": "it is a PFM file, which has floating-point numbers",
    b"P7": "it is a PAM file",
    b"\x93NUMPY": "it is a NumPy array (.npy)",
    b"\x89HDF": "it is an HDF5 file",
    b"MATLAB": "it is a MATLAB file (.mat)",
    b"\x1f\x8b": "it is a gzip archive",
    b"PK\x03\x04": "it is a zip archive",
    b"%PDF": "it is a PDF",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "it is a TIFF of an unsupported kind; save it as PNG"),
}
"""First bytes of a file → description of its kind, for messages."""


def described(beginning: bytes) -> str:
    """Describe a file that could not be decoded. `beginning` holds the first 64 bytes of the file."""
    known = next((kind for mark, kind in BEGINNINGS.items() if beginning.startswith(mark)), None)
    return placeholder(beginning) or known or f"it begins with {beginning[:8]!r}"


def placeholder(beginning: bytes) -> str | None:
    """Return a description of an empty file, a web page or a Git LFS pointer; None for other files.

    A file that begins with "<" counts as a web page.
    """
    if not beginning:
        return "the file is empty"
    if beginning.startswith(b"version https://git-lfs"):
        return BEGINNINGS[b"version https://git-lfs"]
    return "it looks like a web page" if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") else None
