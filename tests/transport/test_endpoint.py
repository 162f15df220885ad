"""Settings of a service are checked where they are written; a key in the place of a name is never repeated."""

import pytest

from evolvedirector.transport.endpoint import Endpoint, is_loopback_host


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://localhost:8000",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000",
        "http://10.0.0.7:8000/v1",
        "http://gpu-node-17:8091/v1",
        "http://images.cluster.local/v1",
    ],
)
def test_these_addresses_are_allowed(url: str) -> None:
    assert Endpoint(url).base_url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://api.example.com/v1", r"unencrypted.*Write https://api\.example\.com/v1"),
        ("http://8.8.8.8/v1", "unencrypted"),
        ("ftp://api.example.com", "no web address"),
        ("api.example.com/v1", "no web address"),
        ("https://", "no web address"),
        ("https://a b.example.com", "no web address"),
        ("https://api.example.com\\@evil.example", "."),
        ("https://api.example.com:99999", "no address"),
    ],
)
def test_these_addresses_are_refused_with_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Endpoint(url)


@pytest.mark.parametrize(
    "url",
    ["https://me:canary-4711@api.example.com", "https://api.example.com/v1?key=canary-4711", "https://h/#canary-4711"],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="api_key_env") as caught:
        Endpoint(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefghijkl",
        "sk_live_abcdefgh",
        "hf_aBcDeFgHiJkLmNoP",
        "r8_4fJk29dkLmNq",
        "0123456789abcdef0123456789abcdef",
        "aGVsbG8gd29ybGQ5NzEyMzQ1",
        "A1B2C3D4E5F6G7H8I9J0K1L2",
        "two words",
        "",
    ],
)
def test_a_key_in_the_place_of_its_name_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="not the name of an environment variable") as caught:
        Endpoint("https://api.example.com", api_key_env=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "my_key", "KEY_2", "BFL_API_KEY_TEAM_VISION_2026", "_TOKEN"])
def test_names_of_variables_are_allowed(name: str) -> None:
    assert Endpoint("https://api.example.com", api_key_env=name).api_key_env == name


@pytest.mark.parametrize(
    "field",
    [
        {"max_in_flight": 0},
        {"attempts": 0},
        {"requests_per_minute": 0.0},
        {"requests_per_minute": float("nan")},
        {"timeout_s": 0.0},
        {"deadline_s": float("inf")},
    ],
)
def test_limits_out_of_range_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(field))}=.*Allowed.*Write"):
        Endpoint("https://api.example.com", **field)


def test_loopback_is_known_by_name_and_address() -> None:
    assert all(map(is_loopback_host, ("localhost", "a.localhost", "127.8.8.8", "::1")))
    assert not any(map(is_loopback_host, ("localhost.example.com", "10.0.0.1", "example.com", "")))
