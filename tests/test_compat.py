"""Compat: one answer on both versions of Datasette."""

from __future__ import annotations

import pytest
from datasette.app import Datasette

from datasette_embed import compat

IS_VERSION_ONE = compat.is_version_one(Datasette)


@pytest.mark.asyncio
async def test_sql_url_runs_the_sql_with_its_parameters(make_datasette):
    """The link leads to a page with the rows."""
    datasette = make_datasette()
    url = compat.sql_url(datasette, "_memory", "select :a || 'é%&' as x", {"a": "50% & more"})
    response = await datasette.client.get(url)
    assert response.status_code == 200
    assert "50% &amp; moreé%&amp;" in response.text


@pytest.mark.asyncio
async def test_sql_url_has_the_base_url(make_datasette):
    """A site may live below a path."""
    datasette = make_datasette(settings={"base_url": "/below/"})
    assert compat.sql_url(datasette, "_memory", "select 1").startswith("/below/_memory")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("options", "actor", "expected"),
    [
        ({}, None, (True, True, False)),
        ({}, {"id": "root"}, (True, True, True)),
        ({"allow": {"id": "a"}}, None, (False, False, False)),
        ({"allow": {"id": "a"}}, {"id": "a"}, (True, True, False)),
        ({"allow_sql": {"id": "a"}}, None, (True, False, False)),
        ({"allow_sql": {"id": "a"}}, {"id": "a"}, (True, True, False)),
        ({"databases": {"_memory": {"allow": False}}}, {"id": "a"}, (True, False, False)),
        pytest.param(
            {"permissions": {"debug-menu": {"id": "a"}}},
            {"id": "a"},
            (True, True, True),
            marks=pytest.mark.skipif(not IS_VERSION_ONE, reason="0.65 has no such block"),
        ),
    ],
)
async def test_permissions_follow_the_sites_config(make_datasette, options, actor, expected):
    """May view, may run SQL, may see what concerns the administrator."""
    datasette = make_datasette(site=options)
    datasette.root_enabled = True
    await datasette.invoke_startup()
    found = (
        await compat.may_view_instance(datasette, actor),
        await compat.may_execute_sql(datasette, actor, "_memory"),
        await compat.may_debug(datasette, actor),
    )
    assert found == expected
