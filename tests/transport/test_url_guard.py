"""Addresses from outside: only plain https to listed public hosts is opened, however the rest is spelt."""

import pytest

from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.url_guard import check_allowed_hosts, check_url, host_is_allowed, is_public_address

HOSTS = ["cdn.example.com", "*.results.example.net"]


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/a.png?sig=1",
        "https://CDN.example.com:443/a.png",
        "https://eu.results.example.net/x",
        "https://a.b.results.example.net/x",
    ],
)
def test_listed_hosts_pass(url: str) -> None:
    check_url(url, HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example.com/a.png",
        "ftp://cdn.example.com/a.png",
        "file:///etc/passwd",
        "//cdn.example.com/a.png",
        "https:/cdn.example.com/a.png",
        "https://evil.example/a.png",
        "https://cdn.example.com.evil.example/",
        "https://evilcdn.example.com/",
        "https://results.example.net/",
        "https://xresults.example.net/",
        "https://.results.example.net/",
        "https://cdn.example.com./",
        "https://cdn.example.com:8443/",
        "https://cdn.example.com:22/",
        "https://cdn.example.com:0x1bb/",
        "https://cdn.example.com@evil.example/",
        "https://evil.example@cdn.example.com/",
        "https://evil.example\\@cdn.example.com/",
        "https://cdn.example.com\\.evil.example/",
        "https://cdn.example.com%2f.evil.example/",
        "https://cdn.example.com\t/",
        "https://cdn.example.com\n.evil.example/",
        " https://cdn.example.com/",
        "https://cdn.example.com/\u2028",
        "https://cdn\uff0eexample.com/",
        "https://169.254.169.254/latest/meta-data/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[::1",
        "https://localhost/",
        "https://",
        "",
        "https://cdn.example.com/" + "a" * 9000,
    ],
)
def test_everything_else_is_refused_without_repeating_path_or_query(url: str) -> None:
    with pytest.raises(TransportFault) as caught:
        check_url(url, HOSTS)
    assert caught.value.kind == "forbidden_url"
    assert "meta-data" not in str(caught.value) and "passwd" not in str(caught.value)


def test_a_service_on_this_machine_may_hand_out_its_own_addresses_only() -> None:
    check_url("http://127.0.0.1:9999/result.png", [], "127.0.0.1")
    for url in ("http://127.0.0.2/x", "http://localhost/x", "ftp://127.0.0.1/x", "http://a@127.0.0.1/x"):
        with pytest.raises(TransportFault):
            check_url(url, [], "127.0.0.1")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
        "2002:a00:1::1", "2001:db8::1", "fec0::1", "not an address", "",
    ],
)  # fmt: skip
def test_addresses_outside_of_the_public_internet_are_known(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_pass(address: str) -> None:
    assert is_public_address(address)


def test_patterns_match_whole_labels_in_any_case() -> None:
    assert host_is_allowed("a.example.com", ["*.EXAMPLE.com"])
    assert not host_is_allowed("example.com", ["*.example.com"])
    assert not host_is_allowed("badexample.com", ["*.example.com", "example.co"])


@pytest.mark.parametrize(
    "name", ["*", "*.", "*.com", "com", "https://cdn.example.com", "cdn.example.com/x", "*a.com", ""]
)
def test_patterns_that_allow_more_than_meant_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Write the host alone"):
        check_allowed_hosts([name])
