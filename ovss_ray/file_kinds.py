"""Files that are not what their names promise: recognised by their first bytes."""

BEGINNINGS = {
    b"version https://git-lfs": "it is a pointer of Git LFS; type `git lfs pull` in its repository",
    b"PF": "it is a PFM file, which holds floating-point numbers",
    b"P7": "it is a PAM file",
    b"\x93NUMPY": "it is a NumPy array (.npy)",
    b"\x89HDF": "it is an HDF5 file",
    b"MATLAB": "it is a MATLAB file (.mat)",
    b"\x1f\x8b": "it is a gzip archive",
    b"PK\x03\x04": "it is a zip archive",
    b"%PDF": "it is a PDF",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "it is a TIFF of a rare kind; save it as PNG"),
}
"""First bytes of a file → what it is."""


def described(beginning: bytes) -> str:
    """Describe a file that could not be read, from its first 64 bytes."""
    known = next((kind for mark, kind in BEGINNINGS.items() if beginning.startswith(mark)), None)
    return placeholder(beginning) or known or f"it begins with {beginning[:8]!r}"


def placeholder(beginning: bytes) -> str | None:
    """Name what lies in a file's place after a failed download: nothing, a web page or a pointer; None for others."""
    if not beginning:
        return "the file is empty"
    if beginning.startswith(b"version https://git-lfs"):
        return BEGINNINGS[b"version https://git-lfs"]
    return "it looks like a web page" if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") else None
