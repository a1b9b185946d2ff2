"""The guard against server-side request forgery: judged by address, whatever a host looks like."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from actors.clients.safe_url import HostNotFound, check_host, check_url, parse_allowed_hosts
from actors.errors import UnsafeUrl


def public(name: str, port: int) -> Collection[str]:
    return ["93.184.216.34"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://0/",
        "http://127.0.0.1./",
        "http://１２７.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fec0::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://localhost/",
    ],
)
def test_a_host_that_is_not_public_is_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        check_url(url, [])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//example.com/",
        "example.com",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://exa mple.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com/\nHost: x",
        "\thttp://example.com/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://" + "a" * 300 + ".com/",
        "http://1.2.3.4.5/",
        "http://256.0.0.1/",
        "",
    ],
)
def test_a_url_that_has_two_readings_or_no_host_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        check_url(url, ["127.0.0.1"], resolve=public)


def test_a_refused_url_does_not_repeat_the_password() -> None:
    with pytest.raises(UnsafeUrl) as refused:
        check_url("http://user:hunter2@example.com/", [])
    assert "hunter2" not in str(refused.value)


def test_a_public_url_comes_back_with_the_addresses_to_connect_to() -> None:
    found = check_url("https://Blog.Example/path?q=1", [], resolve=public)
    assert (found.host, found.port, found.addresses) == ("blog.example", 443, ("93.184.216.34",))
    assert check_url("http://8.8.8.8:8080/", []).port == 8080
    assert check_url("http://[2606:4700::1111]/", []).addresses == ("2606:4700::1111",)
    assert check_url("https://bücher.example/", [], resolve=public).host == "xn--bcher-kva.example"


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(UnsafeUrl):
        check_url("http://rebind.example/", [], resolve=lambda name, port: ["93.184.216.34", "127.0.0.1"])


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9999/"),
        ("127.0.0.1:8701", "http://127.0.0.1:8701/"),
        ("127.0.0.1:8701", "http://2130706433:8701/"),
        ("127.0.0.0/8", "http://127.3.2.1/"),
        ("[::1]:8701", "http://[::1]:8701/"),
        ("::1", "http://[::1]/"),
        ("fd00::/8", "http://[fd12::1]/"),
    ],
)
def test_an_allowed_address_may_be_reached(entry: str, url: str) -> None:
    assert check_url(url, [entry]).url == url


def test_an_allowed_name_may_lead_anywhere_but_only_on_its_port() -> None:
    def inside(name: str, port: int) -> Collection[str]:
        return ["10.1.2.3"]

    assert check_url("http://Blog.Internal:8080/", ["blog.internal:8080"], resolve=inside).addresses == ("10.1.2.3",)
    assert check_url("http://blog.internal/", ["BLOG.internal."], resolve=inside).port == 80
    assert check_url("http://blog.internal/", ["10.0.0.0/8"], resolve=inside).port == 80
    for allowed in (["blog.internal:8081"], ["internal"], ["blog.internal.example"], ["10.2.0.0/16"]):
        with pytest.raises(UnsafeUrl):
            check_url("http://blog.internal:8080/", allowed, resolve=inside)


@pytest.mark.parametrize("entry", ["", " ", "a b", "user@host", "host:port", "10.0.0.0/33", "host/path", "http://x"])
def test_a_malformed_entry_is_reported(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed host"):
        parse_allowed_hosts((entry,))


def test_a_name_without_an_address_may_have_one_later() -> None:
    with pytest.raises(HostNotFound) as failed:
        check_url("http://gone.example/", [], resolve=lambda name, port: [])
    assert not failed.value.permanent


def test_a_tunnel_is_judged_like_a_url() -> None:
    assert check_host("8.8.8.8", 443, []).port == 443
    with pytest.raises(UnsafeUrl):
        check_host("127.0.0.1", 443, ["127.0.0.1:80"])
