"""Who may do what of this package: anonymous, plain, allowed and root, on every way in.

Each table is read like this: what anonymous, plain, allowed and root get, then the request.
``200+`` shows something of the private table, ``200`` does not. A refusal never does.
"""

from __future__ import annotations

import re

import pytest

from datasette_embed.query_embeddings import PROCESS_QUERIES
from datasette_embed.web import routes
from tests.storage import execute
from tests.trust_site import (
    ACTORS,
    IS_ONE,
    MODELS,
    PRIVATE,
    TRUSTED,
    Row,
    make_trust_site,
    outcome,
    read_table,
    table,
    trust_files,
)

__all__ = ["make_trust_site", "trust_files"]  # fixtures

pytestmark = [
    pytest.mark.asyncio,
    # Datasette has sqlite3 print what a function raises.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# -- routes that change nothing ------------------------------------------------------

READING = """
200  200  200  200   GET   /-/embed/models
200  200  200  200   GET   /-/embed/models.json
200  200  200  200   GET   /-/embed/v1/models
200  200  200  200   GET   /-/embed/v1/models/free
401  403  403  200   GET   /-/embed/v1/models/paid
401  403  200  200   GET   /-/embed/v1/models/given
401  403  403  403   GET   /-/embed/v1/models/shut
200  200  200  200   POST  /-/embed/v1/embeddings        {"model": "free", "input": "a"}
401  403  403  200   POST  /-/embed/v1/embeddings        {"model": "paid", "input": "a"}
401  403  200  200   POST  /-/embed/v1/embeddings        {"model": "given-alias", "input": "a"}
401  403  403  403   POST  /-/embed/v1/embeddings        {"model": "shut", "input": "a"}

200  200  200+ 200+  GET   /-/embed.json

200  200  200  200   GET   /open/-/embed.json
200  200  200  200   GET   /open/-/embed/c/by_free.json
200  200  200  200   GET   /open/-/embed/c/by_free/similar.json?id=1
403  403  200  200   GET   /open/-/embed/jobs.json
403  403  200  200   GET   /open/-/embed/jobs/1.json
403  403  200  200   POST  /open/-/embed/estimate        {"table": "posts", "model": "free"}
403  403  403  200   POST  /open/-/embed/estimate        {"table": "posts", "model": "paid"}
403  403  200  200   POST  /open/-/embed/estimate        {"table": "posts", "model": "given"}
403  403  403  403   POST  /open/-/embed/estimate        {"table": "posts", "model": "shut"}

200  200  200+ 200+  GET   /mixed/-/embed.json
200  200  200  200   GET   /mixed/-/embed/c/posts.json
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets.json
404  404  404+ 404+  GET   /mixed/-/embed/c/no-such.json
200  200  200  200   GET   /mixed/-/embed/c/posts/similar.json?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/similar.json?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/similar.json?id=1
403  403  200+ 200+  POST  /mixed/-/embed/c/secrets/similar.json  {"id": "1"}
403  403  200+ 200+  GET   /mixed/-/embed/jobs.json
403  403  200+ 200+  GET   /mixed/-/embed/jobs/1.json
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2.json
403  403  200  200   POST  /mixed/-/embed/estimate       {"table": "posts", "model": "free"}
403  403  200+ 200+  POST  /mixed/-/embed/estimate       {"table": "secrets", "model": "free"}

200  200  200+ 200+  GET   /vectors/-/embed.json
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets.json
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets/similar.json?q=dog
403  403  200+ 200+  GET   /vectors/-/embed/jobs.json
403  403  200+ 200+  GET   /vectors/-/embed/jobs/1.json
"""

# -- routes that change something ----------------------------------------------------
# What the job must be like before, so that there is something to do.
STATES = {
    "pause": "update _embed_jobs set status = 'pending'",
    "cancel": "update _embed_jobs set status = 'pending'",
    "resume": "update _embed_jobs set status = 'paused'",
    "retry": "insert into _embed_failures values (2, '1', null, 'why', 1)",
}
CHANGING = """
403  403  201  201   POST  /open/-/embed/new  {"table": "posts", "model": "free"}
403  403  403  201   POST  /open/-/embed/new  {"table": "posts", "model": "paid"}
403  403  201  201   POST  /open/-/embed/new  {"table": "posts", "model": "given"}
403  403  403  403   POST  /open/-/embed/new  {"table": "posts", "model": "shut"}
403  403  202  202   POST  /open/-/embed/c/by_free/sync
403  403  403  202   POST  /open/-/embed/c/by_paid/sync
403  403  202  202   POST  /open/-/embed/c/by_given/sync
403  403  403  403   POST  /open/-/embed/c/by_shut/sync
403  403  202  202   POST  /open/-/embed/jobs/1/resume
403  403  403  202   POST  /open/-/embed/jobs/2/resume
403  403  202  202   POST  /open/-/embed/jobs/3/resume
403  403  403  403   POST  /open/-/embed/jobs/4/resume
403  403  403  202   POST  /open/-/embed/jobs/2/retry
# To stop what spends needs no right to spend.
403  403  202  202   POST  /open/-/embed/jobs/2/pause
403  403  202  202   POST  /open/-/embed/jobs/4/cancel

403  403  201+ 201+  POST  /mixed/-/embed/new         {"table": "secrets", "model": "free"}
403  403  202+ 202+  POST  /mixed/-/embed/c/secrets/sync
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/pause
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/resume
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/cancel
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/retry
403  403  200  200   POST  /mixed/-/embed/c/secrets/rename  {"name": "other"}
403  403  200+ 200+  POST  /mixed/-/embed/c/secrets/delete  {"confirm": "secrets"}
403  403  200  200   POST  /mixed/-/embed/c/posts/rename    {"name": "other"}
403  403  200  200   POST  /mixed/-/embed/c/posts/delete    {"confirm": "posts"}
403  403  201+ 201+  POST  /rows/-/embed/new  {"table": "secrets", "into": "open", "model": "free"}
"""

# Where everybody may make collections, the rows and the models are still their owners'.
EVERYBODY_MAKES = """
201  201  201  201   POST  /mixed/-/embed/new  {"table": "posts", "model": "free"}
403  403  201+ 201+  POST  /mixed/-/embed/new  {"table": "secrets", "model": "free"}
403  403  201  201   POST  /mixed/-/embed/new  {"sql": "select 1, 2", "collection": "x", "model": "free"}
403  403  201  201   POST  /mixed/-/embed/new  {"table": "posts", "where": "1", "collection": "x"}
403  403  201+ 201+  POST  /rows/-/embed/new   {"table": "secrets", "into": "open", "model": "free"}
403  403  200+ 200+  POST  /mixed/-/embed/estimate  {"table": "secrets", "model": "free"}
403  403  200  200   POST  /mixed/-/embed/estimate  {"table": "posts", "where": "1", "collection": "x"}
200  200  200+ 200+  GET   /mixed/-/embed/jobs.json
200  200  200  200   GET   /mixed/-/embed/jobs/1.json
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2.json
202  202  202  202   POST  /mixed/-/embed/c/posts/sync
403  403  202+ 202+  POST  /mixed/-/embed/c/secrets/sync
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/pause
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/resume
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/cancel
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/retry
403  403  200  200   POST  /mixed/-/embed/c/secrets/rename  {"name": "other"}
403  403  200+ 200+  POST  /mixed/-/embed/c/secrets/delete  {"confirm": "secrets"}
# In which file its rows are, no job of this site says.
403  403  400  400   POST  /vectors/-/embed/c/secrets/sync
403  403  403  202   POST  /open/-/embed/c/by_paid/sync
"""

# Where only some may view the database, or the site, nobody else is told anything of it.
DATABASE_CLOSED = """
200  200  200+ 200+  GET   /-/embed.json
403  403  200+ 200+  GET   /open/-/embed.json
403  403  200+ 200+  GET   /open/-/embed/c/by_free.json
403  403  404+ 404+  GET   /open/-/embed/c/no-such.json
403  403  200+ 200+  GET   /open/-/embed/c/by_free/similar.json?id=1
403  403  200+ 200+  GET   /open/-/embed/jobs.json
403  403  200+ 200+  GET   /open/-/embed/jobs/1.json
403  403  201  201   POST  /open/-/embed/new       {"table": "posts", "model": "free"}
403  403  200  200   POST  /open/-/embed/estimate  {"table": "posts", "model": "free"}
403  403  202+ 202+  POST  /open/-/embed/c/by_free/sync
403  403  202+ 202+  POST  /open/-/embed/jobs/1/pause
403  403  200  200   POST  /open/-/embed/c/by_free/rename  {"name": "other"}
403  403  200+ 200+  POST  /open/-/embed/c/by_free/delete  {"confirm": "by_free"}
403  403  201  201   POST  /mixed/-/embed/new  {"table": "posts", "into": "open", "model": "free"}
"""
SITE_CLOSED = """
403  403  200  200   GET   /-/embed/models
403  403  200  200   GET   /-/embed/models.json
403  403  200+ 200+  GET   /-/embed.json
401  403  200  200   GET   /-/embed/v1/models
401  403  200  200   GET   /-/embed/v1/models/free
401  403  200  200   POST  /-/embed/v1/embeddings  {"model": "free", "input": "a"}
"""


@table(READING)
async def test_reading(make_trust_site, row):
    """Whoever asks, nothing is written; whoever is refused is shown and spends nothing."""
    site = make_trust_site()
    files = site.bytes()
    assert await outcomes(site, row) == list(row.expected)
    assert site.bytes() == files


async def outcomes(site, row):
    """Return what each actor gets; no model is called for those who are refused."""
    found = []
    for actor in ACTORS:
        PROCESS_QUERIES.clear()
        calls = site.calls()
        response = await site.ask(row, actor)
        found.append(outcome(response))
        assert response.status_code < 400 or site.calls() == calls, actor
    return found


@table(CHANGING)
async def test_changing(make_trust_site, row):
    """Whoever is refused changes nothing and spends nothing; for others it happens."""
    assert await outcomes_of_change(make_trust_site, row) == list(row.expected)


@table(EVERYBODY_MAKES)
async def test_everybody_makes(make_trust_site, row):
    """The action embed-create opens no table, no SQL and no model."""
    config = {"allow_create": True}
    assert await outcomes_of_change(make_trust_site, row, config=config) == list(row.expected)


@table(DATABASE_CLOSED)
async def test_database_closed(make_trust_site, row):
    """An allow block of the database closes all that is in it, to makers too."""
    options = {"databases": {"open": {"allow": TRUSTED}}, "config": {"allow_create": True}}
    found = await outcomes_of_change(make_trust_site, row, private="by_free", **options)
    assert found == list(row.expected)


@table(SITE_CLOSED)
async def test_site_closed(make_trust_site, row):
    """An allow block of the site closes what belongs to no database."""
    site = make_trust_site(site={"allow": TRUSTED})
    assert await outcomes(site, row) == list(row.expected)


async def outcomes_of_change(make_trust_site, row, private=PRIVATE, **options):
    """Return what each actor gets, each in a site of their own."""
    found = []
    state = STATES.get(row.path.rpartition("/")[2])
    for actor in ACTORS:
        site = make_trust_site(**options)
        if state:
            execute(site.folder / f"{row.path.split('/')[1]}.db", state)
        files = site.bytes()
        response = await site.ask(row, actor)
        await site.settled()
        found.append(outcome(response, private))
        if response.status_code >= 400:
            assert site.bytes() == files, actor
            assert set(site.calls().values()) == {0}, actor
        elif not re.search(r"\.json|estimate", row.path):
            assert site.bytes() != files, actor
    return found


async def test_every_route_is_in_the_matrix():
    """Whoever adds a route says here who may use it, with each of its actions."""
    asked = [row.path.partition("?")[0] for row in read_table(READING + CHANGING)]
    for pattern, _ in routes():
        for one in actions_of(pattern):
            assert any(re.search(one, path) for path in asked), one


def actions_of(pattern):
    """Return the pattern once for each of the words it lists."""
    found = re.search(r"\(\?P<\w+>((?:\w+\|)+\w+)\)", pattern)
    if found is None:
        return [pattern]
    return [pattern.replace(found[0], word) for word in found[1].split("|")]


# -- SQL ----------------------------------------------------------------------------

MAY_USE = """
yes  yes  yes  yes   free
no   no   no   yes   paid
no   no   yes  yes   given
no   no   no   no    shut
"""
# Every kind of place where SQL with a model in it runs, and the status of a refusal there.
PLACES_OF_BOTH = """
400  /open/embedded.json?model={model}&q=a
400  /open/posts.json?_where=llm_embed('{model}','a')+is+not+null
400  /open/posts?_where=llm_embed('{model}','a')+is+not+null
400  /open/view_{model}.json
400  /open/view_{model}
400  /open/view_{model}.json?_facet=vector
400  /open/view_{model}.json?_sort=vector
400  /open/view_{model}.json?_where=vector+is+not+null
400  /open/column_{model}.json
400  /open/column_{model}
400  /open/column_{model}.json?_facet=vector
400  /open/column_{model}/1.json
400  /open/column_{model}/1
400  /open/column_{model}/1.blob?_blob_column=vector
403  /open/posts.json?_similar=a&_similar_collection=by_{model}
403  /open/posts?_similar=a&_similar_collection=by_{model}
403  /open/-/embed/c/by_{model}/similar.json?q=a
"""
PLACES_OF_OLD = """
400  /open.json?sql=select+llm_embed('{model}','a')
400  /open?sql=select+llm_embed('{model}','a')
200  /open.csv?sql=select+llm_embed('{model}','a')
400  /open/embedded?model={model}&q=a
200  /open/embedded.csv?model={model}&q=a
400  /open/view_{model}.csv
400  /open/posts.csv?_where=llm_embed('{model}','a')+is+not+null
"""
PLACES_OF_ONE = """
400  /open/-/query.json?sql=select+llm_embed('{model}','a')
200  /open/-/query?sql=select+llm_embed('{model}','a')
400  /open/-/query.csv?sql=select+llm_embed('{model}','a')
200  /open/embedded?model={model}&q=a
400  /open/embedded.csv?model={model}&q=a
400  /open/view_{model}.csv
400  /open/posts.csv?_where=llm_embed('{model}','a')+is+not+null
"""
PLACES = [
    tuple(line.split())
    for line in (PLACES_OF_BOTH + (PLACES_OF_ONE if IS_ONE else PLACES_OF_OLD)).split("\n")
    if line
]
MODELS_OF = {line.split()[4]: line.split()[:4] for line in MAY_USE.strip().splitlines()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("refusal", "path"), PLACES)
async def test_sql(make_trust_site, refusal, path, model):
    """In every place where SQL runs, who may use a model is the same."""
    row = Row((), "GET", path.replace("{model}", model), None)
    site = make_trust_site()
    expected = [(may, 200 if may == "yes" else int(refusal)) for may in MODELS_OF[model]]
    assert await answers(site, row, model) == expected


async def answers(site, row, model):
    """Return yes where an actor's request called the model, and no where it did not."""
    found = []
    for actor in ACTORS:
        PROCESS_QUERIES.clear()
        calls = site.calls()[model]
        response = await site.ask(row, actor)
        called = site.calls()[model] > calls
        if not called and ".csv" not in row.path:
            assert f"You may not use the model {model} here" in response.text
        found.append(("yes" if called else "no", response.status_code))
    return found
