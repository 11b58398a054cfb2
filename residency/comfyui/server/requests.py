"""Bodies and queries of requests, and the answers to those that cannot be used."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from ...units import cut, shown


class BadRequestError(Exception):
    """One sentence that says what is wrong with a request, and the way out."""


async def body(request: web.Request) -> Any:
    """The JSON that a request carries. Raises BadRequestError for anything that is none; aiohttp itself answers one that is too big."""
    try:
        return json.loads(await request.text(), object_pairs_hook=_object)
    except LookupError:
        raise BadRequestError(f"{shown(request.charset)} is not a charset; send the body as JSON in UTF-8") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply to be read; send a JSON object") from None
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON in {cut(request.charset or 'UTF-8')}: {cut(str(error))}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names {shown(name)} twice")
        found[name] = value
    return found


def error_answer(code: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)
