"""Which addresses are one site: as the browser is there, and without the scheme as the site claims it."""

from __future__ import annotations

import pytest

from actors import PublishRefused
from actors.clients.publishers.wordpress import check_origin


@pytest.mark.parametrize(
    ("base", "url", "claimed", "right"),
    [
        ("https://example.com", "https://example.com/wp-admin/", False, None),
        ("https://example.com", "https://EXAMPLE.com:443/", False, None),
        ("https://example.com/blog", "https://www.example.com/wp/", True, "https://www.example.com/blog"),
        ("https://www.example.com", "https://example.com/", False, "https://example.com"),
        ("http://example.com", "https://example.com/", False, "https://example.com"),
        ("https://example.com", "http://example.com", True, None),
        ("http://127.0.0.1:8080", "http://localhost:8080/", True, "http://localhost:8080"),
        ("http://example.com:8080", "http://example.com", True, "http://example.com"),
    ],
)
def test_another_address_of_a_site_is_named(base: str, url: str, claimed: bool, right: str | None) -> None:
    if right is None:
        check_origin(base, url, claimed=claimed)
        return
    with pytest.raises(PublishRefused) as refused:
        check_origin(base, url, claimed=claimed)
    assert str(refused.value).endswith(f"own address is {right}: set base_url to that")
