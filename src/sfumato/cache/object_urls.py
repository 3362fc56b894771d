"""The URLs of object stores. No message holds any part of one: operators put secrets into URLs.

::

    s3://bucket[/prefix]         AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, … (also s3a://)
    gs://bucket[/prefix]         GOOGLE_SERVICE_ACCOUNT, GOOGLE_APPLICATION_CREDENTIALS, …
    az://container[/prefix]      AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, … (also abfs://, abfss://)
    file:///directory            made with mode 0700
    memory://                    this process's memory, for trials
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sfumato.errors import ConfigurationError

SCHEMES = ("s3", "gs", "az", "file", "memory")
_ALIASES = ("s3a", "abfs", "abfss")


def check_object_url(url: str) -> Path | None:
    """Check the form of an object store's URL; return the directory that a ``file://`` one names, else None.

    Raises:
        ConfigurationError: It is not such a URL; the message never repeats it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _wrong("it is not a URL") from None
    if parts.scheme not in (*SCHEMES, *_ALIASES):
        raise _wrong(f"expected {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _wrong("credentials and options belong in the provider's own environment variables")
    if parts.scheme in ("file", "memory"):
        if parts.netloc:
            raise _wrong("a directory has three slashes, file:///directory")
        return Path(unquote(parts.path) or "/") if parts.scheme == "file" else None
    if not parts.netloc:
        raise _wrong("expected a bucket after the slashes")
    return None


def _wrong(reason: str) -> ConfigurationError:
    return ConfigurationError(f"The URL of the object store is invalid: {reason}.")
