"""Functions for addresses of files. An address is a path or a URI.

Messages show an address without passwords. A URI that contains a password or a key is refused.
"""

import re
from pathlib import Path

from ovss_ray.errors import OvssError
from ovss_ray.io import inline

_WEB = ("http", "https")
_USER = re.compile(r"(https?://)[^/\s@]*@|(\w://)[^/\s@]*:[^/\s@]*@", re.IGNORECASE)
"""Pattern of a user name in a web address, or of user name and password in any URI."""
_PASSWORD = re.compile(r"[a-z0-9+.]+://[^/\s@]*:[^/\s@]*@", re.IGNORECASE)
"""Pattern of the beginning of a URI with a password. The pattern does not match Azure's `container@account`."""
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", re.IGNORECASE)
_KEY = re.compile(r"[?&][^=/&]*(?:secret|password|token|signature|sig|credential|access_?key)[^=/&]*=.*", re.IGNORECASE)
"""Pattern of query parameters that may hold a key, such as `?token=…`"""


def shown(uri: str | Path) -> str:
    """Return an address for messages, without its secrets (see `without_secrets`).

    For inline://NAME/CONTENT, return only NAME.
    """
    text = inline.shown(str(uri))
    return without_secrets(text) if "://" in text else text


def without_secrets(text: str) -> str:
    """Return `text` without the secrets of the URIs in the text.

    From a web address, the user name, the password and the query are removed. From other URIs, these parts are removed:

    - a password and its user name; without a password, the user name is kept
    - a query parameter that may hold a key (see `_KEY`), and the rest of the line after it
    """
    return _KEY.sub("", _QUERY.sub(r"\1", _USER.sub(r"\1\2", text)))


def refuse_secrets(uri: str) -> None:
    """Raise OvssError if a URI contains a password or a key.

    Also raise OvssError if a web address contains a user name or a query.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark or inline.is_inline(uri):
        return
    web = scheme.lower() in _WEB
    if _PASSWORD.match(uri) or (web and "@" in rest.partition("/")[0]):
        raise OvssError(
            f"{shown(uri)}: the address contains a user name or password, which run folders and logs would show. "
            "Remove the user name and password. "
            f"{ADVICE.get(scheme.lower(), 'Give credentials in environment variables')}"
        )
    # with other schemes than http(s), a path may contain "?"
    if (web and "?" in rest) or _KEY.search(rest):
        raise OvssError(
            f"{shown(uri)}: the address contains a query (after ?). The query may hold a key, which run folders and "
            "logs would show. Remove the query. "
            f"{ADVICE.get(scheme.lower(), 'Give credentials in environment variables')}"
        )


_S3 = (
    "For S3, set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket, set "
    "FSSPEC_S3_ANON=true; for another server than Amazon's, also set AWS_ENDPOINT_URL"
)
_GCS = "For Google, set GOOGLE_APPLICATION_CREDENTIALS=FILE.json; for a public bucket, set FSSPEC_GS_TOKEN=anon"
_AZURE = "For Azure, set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
_HTTP = """For HTTP, write the password into ~/.netrc and set FSSPEC_HTTP='{"client_kwargs": {"trust_env": true}}'"""
ADVICE = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GCS),
    **dict.fromkeys(("abfs", "abfss", "az"), _AZURE),
    **dict.fromkeys(_WEB, _HTTP),
    "hf": "For Hugging Face, type `hf auth login` or set HF_TOKEN",
}
"""Scheme of a URI → advice for error messages: how to provide credentials."""


def local(uri: str | Path) -> str | None:
    """Return the absolute path of a local file; None if the address is a URI other than file://."""
    text = str(uri)
    if text.startswith("file://"):
        return str(Path("/", text.removeprefix("file://").partition("/")[2]))
    return None if "://" in text else str(Path(text).expanduser().absolute())


def plain(name: str) -> str:
    """Return a folder name for a benchmark: "ade20k-847" for `ade20k:847`, "folder-b" for `folder:a/b.yaml`."""
    family, _, rest = name.partition(":")
    stem = Path(rest).stem if rest.endswith((".yaml", ".yml")) else rest
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{family}-{stem}" if stem else family)
