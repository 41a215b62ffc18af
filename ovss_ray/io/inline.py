"""Inline addresses, which contain data such as the annotations of one image.

An address is inline://NAME/CONTENT. NAME is the source of the data, which error messages name. CONTENT is the
compressed data in base64. A worker that has an inline address does not read the large file with the annotations of all
images.
"""

import base64
import binascii
import hashlib
import zlib

from ovss_ray.errors import OvssError

SCHEME = "inline://"


def address(name: str, content: bytes) -> str:
    """Compress `content`, and return the inline address that contains the compressed data.

    `name` describes the source, such as instances_val2017.json/000000000139.
    """
    return f"{SCHEME}{name}/{base64.urlsafe_b64encode(zlib.compress(content, 6)).decode()}"


def is_inline(uri: str) -> bool:
    """Return whether an address is inline, so that it contains the data itself."""
    return uri.startswith(SCHEME)


def content(uri: str) -> bytes:
    """Return the decompressed content of an inline address. Raises OvssError if the content is damaged."""
    try:
        return zlib.decompress(base64.urlsafe_b64decode(uri.rpartition("/")[2]))
    except (binascii.Error, zlib.error) as failure:
        raise OvssError(
            f"{shown(uri)}: damaged content ({failure}). The file manifest.parquet in the run folder stores this "
            "content. Run the evaluation again to rewrite the file"
        ) from failure


def digest(uri: str) -> str:
    """Return the digest of an inline address: 32 hex digits that change when the content changes."""
    return hashlib.sha256(uri.rpartition("/")[2].encode()).hexdigest()[:32]


def shown(uri: str) -> str:
    """Return an address as it appears in messages. An inline address is shortened to its NAME."""
    return uri.removeprefix(SCHEME).rpartition("/")[0] if is_inline(uri) else uri
