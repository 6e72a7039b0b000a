"""Web addresses that are read strictly, and IP addresses that are blocked."""

from __future__ import annotations

from ipaddress import ip_address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4sdk.errors import UrlBlocked
from llama4sdk.images.address import is_public
from llama4sdk.images.remote_url import parse


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::8a"])
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.255.0.3", "::1", "169.254.169.254", "fd00:ec2::254", "0.0.0.0", "::"]
)
def test_fault_36_loopback_and_metadata_addresses_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200"),
        *("192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1", "2001:0:4136:e378::", "2001:10::1"),
        *("2001:db8::1", "3fff::1", "fe80::1", "fec0::1", "fc00::1", "ff02::1", "100::1", "5f00::1"),
    ],
)
def test_fault_37_special_and_wrapped_addresses_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "0x7f.1", "017700000001", "0", "0x0"),
        *("127.0.0.0x1", "256.1.1.1", "1.2.3.4.5", "example.0x7f", "a.1", "127.0.0.1.", "0x"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "ⓛocalhost", "exämple.com"),
        *("[::ffff:127.0.0.1]%25lo", "[fe80::1%25eth0]", "[v1.x]", "[127.0.0.1]", "[::1", "::1", "[]", ""),
        *("a..b", ".a", "a b", "a%2eb", "a_b@c"),
    ],
)
def test_fault_37_hosts_written_as_unusual_numbers_are_blocked(host: str) -> None:
    with pytest.raises(UrlBlocked):
        parse(f"http://{host}/a.png")


@pytest.mark.parametrize(
    "url",
    [
        *("http://a\\b/", "http:\\\\a", "http://a/\\b", "http://a\\@b/", "https:\\/a"),
        *("http://user@a/", "http://user:pass@a/", "http://a@b@c/", "http://@a/", "http://a:80@b/"),
        *("http:a", "http:/a", "http:///a", "//a/b", "ftp://a/", "file:///etc/passwd", "data:,", "javascript:x"),
        *(
            "http://a/\r\nHost: b",
            "http://a/ b",
            " http://a/",
            "http://a/\n",
            "http://a\t/",
            "http://a/é",
            "http://a/\0",
        ),
        *("http://a:0/", "http://a:65536/", "http://a:99999/", "http://a:/", "http://a:-1/", "http://a:8x/"),
        "http://a/" + "b" * 9000,
    ],
)
def test_fault_38_urls_that_two_readers_could_read_differently_are_blocked(url: str) -> None:
    with pytest.raises(UrlBlocked):
        parse(url)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.COM/A.png?B=C#frag", "https://example.com/A.png?B=C"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("http://example.com:8080/a", "http://example.com:8080/a"),
        ("http://xn--exmple-cua.com./a%20b/../c", "http://xn--exmple-cua.com./a%20b/../c"),
        ("http://8.8.8.8/a", "http://8.8.8.8/a"),
        ("http://[2606:4700::1111]:81/a", "http://[2606:4700::1111]:81/a"),
        ("http://a?b", "http://a?b"),
        ("http://my_bucket.s3.example/a@b;c=d", "http://my_bucket.s3.example/a@b;c=d"),
        ("http://0x7f.example.com/", "http://0x7f.example.com/"),
    ],
)
def test_plain_urls_are_read(url: str, read: str) -> None:
    assert str(parse(url)) == read


def test_an_address_in_the_url_is_known_as_one() -> None:
    assert parse("http://8.8.8.8/").address == ip_address("8.8.8.8")
    assert parse("http://[::1]/").address == ip_address("::1")
    assert parse("http://example.com/").address is None


@given(text=st.text())
def test_any_text_is_a_url_or_blocked(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a/{text}"):
        try:
            found = parse(url)
        except UrlBlocked:
            continue
        assert str(found).isascii()
        assert "\\" not in str(found)
        assert httpx.URL(str(found)).host == found.host
