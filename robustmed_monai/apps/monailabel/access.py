"""Who may ask the server: programs of this machine, its own pages, and from elsewhere who has the token."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from robustmed_monai.utils.errors import ConfigError, RequestError

TOKEN_VARIABLE = "ROBUSTMED_LABEL_TOKEN"
_SHORTEST_TOKEN = 32
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
# A proxy says so; what it forwards does not come from this machine, whatever the address of the proxy.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_OWN_PAGES = ("same-origin", "none")


@dataclass(frozen=True)
class Access:
    """Decides who may ask.

    A web page can send requests to any address, this machine's too, with the browser of whoever opened it:
    the names of the host, the origin and the site that browsers state are compared with the server's own. A
    page that rebinds its own name to this machine is found by the host.

    Args:
        hosts: names under which the server is reached from elsewhere, in lower case and without a port; none
            when it is for this machine only.
        token: what requests have to carry once there are such names.
    """

    hosts: frozenset[str] = frozenset()
    token: str = ""

    def check(self, headers: Iterable[tuple[str, str]], local: str | None, peer: str | None) -> None:
        """Check a request.

        Args:
            headers: names in lower case and values.
            local: address at which the server was reached.
            peer: address of the one who asks.

        Raises:
            RequestError: 403 for a foreign name, page or machine, 401 without the token.
        """
        given = list(headers)
        host = _single(given, "host").lower()
        match = _HOST.fullmatch(host)
        name = match[1].strip("[]") if match else ""
        if not _is_loopback(name) and name not in self.hosts:
            raise RequestError(
                403, f"Host {host!r}: not a name of this server; to allow it start with --conf hosts NAME."
            )
        self._check_page(given, host)
        if self.hosts:
            self._check_token(_single(given, "authorization"))
        elif not (_is_loopback(local) and _is_loopback(peer)) or any(key in _FORWARDED for key, _ in given):
            raise RequestError(
                403, "this server is for its own machine; to open it start with --conf hosts NAME."
            )

    def _check_page(self, headers: list[tuple[str, str]], host: str) -> None:
        origin = _single(headers, "origin")
        if origin and (urlsplit(origin).scheme not in ("http", "https") or urlsplit(origin).netloc != host):
            raise RequestError(403, f"Origin {origin!r}: pages of other servers may not ask this one.")
        site = _single(headers, "sec-fetch-site")
        if site and site not in _OWN_PAGES:
            raise RequestError(403, f"Sec-Fetch-Site {site!r}: pages of other servers may not ask this one.")

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(
            token.strip().encode(), self.token.encode()
        ):
            raise RequestError(
                401, "send the token that the server printed when it started: 'Authorization: Bearer TOKEN'."
            )


def make_access(hosts: str) -> Access:
    """Access for the setting ``hosts``: names with commas between them, without ports; empty for none.

    The token is that of the environment variable ``ROBUSTMED_LABEL_TOKEN``, or else a new one.

    Raises:
        ConfigError: for what is no name of a host, and a token that could be guessed.
    """
    names = [name.strip().lower() for name in hosts.split(",") if name.strip()]
    for name in names:
        match = _HOST.fullmatch(name)
        if not match or match[2]:
            raise ConfigError(f"--conf hosts {hosts}: {name!r} is no name of a host; give it without a port.")
    if not names:
        return Access()
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(_SHORTEST_TOKEN)
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(char.isspace() for char in token):
        raise ConfigError(
            f"{TOKEN_VARIABLE}: give at least {_SHORTEST_TOKEN} characters without blanks; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one."
        )
    return Access(frozenset(name.strip("[]") for name in names), token)


def _single(headers: list[tuple[str, str]], name: str) -> str:
    found = [value for key, value in headers if key == name]
    if len(found) > 1:
        raise RequestError(400, f"{name}: given {len(found)} times; give it once.")
    return found[0].strip() if found else ""


def _is_loopback(name: str | None) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
