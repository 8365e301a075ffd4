"""Visitors: requests to a Datasette as somebody, on either version."""

from __future__ import annotations

from typing import Any

from datasette.app import Datasette

from datasette_embed import compat


def cookies_of(datasette: Datasette, actor: dict[str, Any] | None) -> dict[str, str]:
    """Return the cookie of a signed-in actor; none for nobody."""
    if actor is None:
        return {}
    return {"ds_actor": datasette.sign({"a": actor}, "actor")}


async def run_sql(
    datasette: Datasette,
    sql: str,
    *,
    actor: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    **params: str,
) -> tuple[int, Any]:
    """Return the status, and the first row's first value or the error message."""
    path = compat.sql_url(datasette, "_memory", sql, {**params, "_shape": "arrays"})
    page, _, query = path.partition("?")
    response = await datasette.client.get(
        f"{page}.json?{query}", cookies=cookies_of(datasette, actor), headers=headers or {}
    )
    body = response.json()
    return response.status_code, body["error"] if not body["ok"] else body["rows"][0][0]
