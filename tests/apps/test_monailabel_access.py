"""Who may ask the MONAI Label server: names, pages, machines and the token."""

from __future__ import annotations

import pytest

from robustmed_monai.apps.monailabel.access import TOKEN_VARIABLE, Access, make_access
from robustmed_monai.utils.errors import ConfigError, RequestError

TOKEN = "t" * 43
HERE = ("127.0.0.1", "127.0.0.1")
OPEN = Access(frozenset({"label.example", "::2"}), TOKEN)


def _status(access: Access, headers: dict[str, str], local: str | None, peer: str | None) -> int:
    try:
        access.check(list(headers.items()), local, peer)
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.9.9.9"])
def test_programs_of_this_machine_may_ask(host: str) -> None:
    assert _status(Access(), {"host": host}, *HERE) == 200
    own = {"host": host, "origin": f"http://{host}".lower(), "sec-fetch-site": "same-origin"}
    assert _status(Access(), own, *HERE) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "evil.example:127",
        "user@127.0.0.1",
        "127.0.0.1/",
        "127.0.0.1:8000:1",
        "192.168.1.5",
        "0.0.0.0",
        "[::2]",
        "localhost.",
        "127.0.0.1, evil.example",
    ],
)
def test_other_names_of_this_machine_are_refused(host: str) -> None:
    """A foreign page whose name is made to lead here states that name."""
    assert _status(Access(), {"host": host}, *HERE) == 403


@pytest.mark.parametrize(
    "stated",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:8000"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "http://evil.example@127.0.0.1:8000"},
        {"origin": "file://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "anything"},
    ],
)
def test_pages_of_other_servers_are_refused(stated: dict[str, str]) -> None:
    assert _status(Access(), {"host": "127.0.0.1:8000", **stated}, *HERE) == 403
    trusted = {"host": "label.example", "authorization": f"Bearer {TOKEN}", **stated}
    assert _status(OPEN, trusted, "10.0.0.2", "10.0.0.3") == 403, "the token is no excuse"


@pytest.mark.parametrize(
    ("local", "peer"), [("10.0.0.2", "10.0.0.3"), ("127.0.0.1", "10.0.0.3"), (None, None), ("::2", "::2")]
)
def test_other_machines_are_refused_whatever_name_they_state(local: str | None, peer: str | None) -> None:
    assert _status(Access(), {"host": "127.0.0.1:8000"}, local, peer) == 403


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_what_a_proxy_forwards_is_not_of_this_machine(name: str) -> None:
    assert _status(Access(), {"host": "127.0.0.1", name: "127.0.0.1"}, *HERE) == 403


@pytest.mark.parametrize("host", ["label.example", "label.example:443", "127.0.0.1:8000", "[::2]:8000"])
@pytest.mark.parametrize("place", [HERE, ("10.0.0.2", "10.0.0.3")])
def test_an_open_server_wants_the_token_from_everybody(host: str, place: tuple[str, str]) -> None:
    assert _status(OPEN, {"host": host, "authorization": f"Bearer {TOKEN}"}, *place) == 200
    for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer é"):
        assert _status(OPEN, {"host": host, "authorization": wrong}, *place) == 401
    assert _status(OPEN, {"host": "other.example", "authorization": f"Bearer {TOKEN}"}, *place) == 403


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "sec-fetch-site"])
def test_a_header_that_decides_is_given_once(name: str) -> None:
    headers = [("host", "label.example"), ("authorization", f"Bearer {TOKEN}"), (name, "x"), (name, "x")]
    with pytest.raises(RequestError) as found:
        OPEN.check(headers, *HERE)
    assert found.value.status in (400, 401)


def test_the_token_is_new_each_time_or_given_and_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert make_access("") == make_access(" , ") == Access()
    first, second = (make_access("Label.Example, [::2]") for _ in range(2))
    assert first.hosts == {"label.example", "::2"}
    assert first.token != second.token
    assert len(first.token) >= 43
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert make_access("a").token == TOKEN
    for short in ("secret", "a b" * 20, "ü" * 40):
        monkeypatch.setenv(TOKEN_VARIABLE, short)
        with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
            make_access("a")


@pytest.mark.parametrize("hosts", ["label.example:443", "https://label.example", "*", "a b", "a/b"])
def test_a_name_of_a_host_is_one(hosts: str) -> None:
    with pytest.raises(ConfigError, match="no name of a host"):
        make_access(hosts)
