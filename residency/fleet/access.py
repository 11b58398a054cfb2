"""Who may ask the door: ComfyUI's own rule for pages of other sites, and the token where there is one."""

from __future__ import annotations

import hmac
import urllib.parse
from collections.abc import Mapping

from ..units import shown


def refused(headers: Mapping[str, str], token: str | None, query_token: str | None = None) -> str | None:
    """Why a request is not answered; None where it is."""
    if headers.get("sec-fetch-site") == "cross-site":
        return "the request comes from another site's page"
    origin, host = headers.get("origin"), headers.get("host")
    if origin and host and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
        return f"the request comes from a page of {shown(origin)}"
    if token is not None and not (_same(headers.get("authorization"), f"Bearer {token}") or _same(query_token, token)):
        return "the token is missing or another one; send it as Authorization: Bearer TOKEN"
    return None


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())
