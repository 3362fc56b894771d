"""The URLs of Redis. No message and no repr holds any part of a URL: it may hold credentials.

::

    redis://[[user]:password@]host[:port][/db]                             one server
    unix://[[user]:password@]/path/of/socket[?db=0]                        one server, by its socket
    redis+cluster://[[user]:password@]host[:port],host[:port]              Redis Cluster, by some of its nodes
    redis+sentinel://[[user]:password@]host[:port],…/service[/db]          the master that Sentinels name
                    [?sentinel_username=…&sentinel_password=…]             credentials of the Sentinels themselves

``valkey`` says the same as ``redis``; ``rediss``, ``valkeys`` are their TLS forms. TLS verifies the server; it takes
``?ssl_ca_certs=FILE``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_cert_reqs=none|required``,
``ssl_check_hostname=true|false``. Credentials, service and paths are percent-encoded; IPv6 addresses stand in
brackets. Ports default to 6379, those of Sentinels to 26379.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sfumato.errors import ConfigurationError

_SCHEME = re.compile(r"(?:redis|valkey)(?P<tls>s?)(?:\+(?P<kind>cluster|sentinel))?|(?P<unix>unix)")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\s:/\[\]@,]+))(?::(?P<port>[0-9]{1,5}))?")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_CHOICES: Mapping[str, Mapping[str, object]] = {
    "ssl_cert_reqs": {"none": "none", "required": "required"},
    "ssl_check_hostname": {"true": True, "false": False},
}
_SENTINEL_NAMES = ("sentinel_username", "sentinel_password")

Kind = Literal["single", "unix", "cluster", "sentinel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where Redis is and how to enter.

    Attributes:
        kind: What listens there.
        hosts: Host and port of each node named; empty for a socket.
        path: Of the socket.
        service: What the Sentinels call the master.
        database: Its number.
        username, password: Of Redis.
        sentinel_username, sentinel_password: Of the Sentinels.
        tls: Whether to speak TLS, to Sentinels too.
        tls_options: In redis-py's names.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_options: Mapping[str, object] = field(default_factory=dict, repr=False)


def parse_redis_url(url: str) -> RedisAddress:
    """Read a URL of Redis; the grammar stands at the top of this module.

    Raises:
        ConfigurationError: It is not such a URL; the message never repeats it.
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise _wrong("it is not a URL") from None
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None or parts.fragment:
        raise _wrong("expected redis://, rediss://, unix://, valkey://, redis+cluster:// or redis+sentinel://")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    credentials, _, netloc = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    if credentials and not colon:
        raise _wrong("credentials are written user:password@ or :password@")
    kind: Kind = "unix" if scheme["unix"] else (scheme["kind"] or "single")  # type: ignore[assignment]  # _SCHEME has no other
    tls = bool(scheme["tls"])
    address = RedisAddress(
        kind=kind,
        hosts=() if kind == "unix" else _hosts(netloc, kind),
        path=_socket(netloc, parts) if kind == "unix" else "",
        service=_service(parts) if kind == "sentinel" else "",
        database=_database(kind, parts, options),
        username=unquote(user) or None,
        password=unquote(password) or None,
        tls=tls,
        tls_options=_tls_options(options) if tls else {},
        **{name: options.pop(name, None) for name in _SENTINEL_NAMES if kind == "sentinel"},
    )
    if options:
        raise _wrong("it has a parameter that means nothing there")
    return address


def _wrong(reason: str) -> ConfigurationError:
    return ConfigurationError(f"The URL of Redis is invalid: {reason}.")


def _hosts(netloc: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    default = 26379 if kind == "sentinel" else 6379
    hosts = []
    for text in netloc.split(","):
        match = _HOST.fullmatch(text)
        port = int(match["port"] or default) if match else 0
        if match is None or not 0 < port < 65536:
            raise _wrong("expected host:port")
        hosts.append((match["v6"] or match["name"], port))
    if kind == "single" and len(hosts) > 1:
        raise _wrong("several hosts need redis+cluster:// or redis+sentinel://")
    return tuple(hosts)


def _socket(netloc: str, parts: SplitResult) -> str:
    if netloc or len(parts.path) < 2:
        raise _wrong("expected unix:///path/of/socket")
    return unquote(parts.path)


def _service(parts: SplitResult) -> str:
    service = unquote(parts.path.split("/")[1]) if parts.path else ""
    if not service:
        raise _wrong("expected redis+sentinel://host:port/service")
    return service


def _database(kind: Kind, parts: SplitResult, options: dict[str, str]) -> int:
    if kind == "unix":
        text = options.pop("db", "")
    else:
        _, *words = parts.path.rstrip("/").split("/")
        text = "/".join(words[kind == "sentinel" :])
    if not text:
        return 0
    if kind == "cluster" or not (text.isascii() and text.isdecimal()):
        raise _wrong("a database is a number, and a cluster has none")
    return int(text)


def _tls_options(options: dict[str, str]) -> Mapping[str, object]:
    chosen: dict[str, object] = {name: options.pop(name) for name in _TLS_FILES if name in options}
    for name, choices in _TLS_CHOICES.items():
        if name in options:
            text = options.pop(name).lower()
            if text not in choices:
                raise _wrong(f"{name} is one of {', '.join(choices)}")
            chosen[name] = choices[text]
    return chosen
