"""Who may do what of this package: anonymous, plain, allowed and root, on every way in.

Each table is read like this: what anonymous, plain, allowed and root get, then the request.
``200+`` shows something of the private table, ``200`` does not. A refusal never does.
"""

from __future__ import annotations

import contextvars
import re
from urllib.parse import urlencode

import pytest

from datasette_embed import executor, server, sql_functions
from datasette_embed.query_embeddings import PROCESS_QUERIES
from datasette_embed.sql_functions import register
from datasette_embed.web import routes
from tests.storage import execute
from tests.trust_site import (
    ACTORS,
    IS_ONE,
    MODELS,
    PRIVATE,
    TRUSTED,
    Row,
    expectations,
    make_trust_site,
    outcome,
    outcomes,
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

404  404  404  404   GET   /-/embed/no-such-page
404  404  404  404   GET   /open/-/embed/no-such-page
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
200  200  200+ 200+  GET   /mixed/-/embed/c/chosen.json
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets.json
404  404  404+ 404+  GET   /mixed/-/embed/c/no-such.json
200  200  200  200   GET   /mixed/-/embed/c/posts/similar.json?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/similar.json?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/similar.json?id=1
403  403  200+ 200+  POST  /mixed/-/embed/c/secrets/similar.json  {"id": "1"}
403  403  200+ 200+  GET   /mixed/-/embed/jobs.json
403  403  200  200   GET   /mixed/-/embed/jobs/1.json
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2.json
403  403  200  200   POST  /mixed/-/embed/estimate       {"table": "posts", "model": "free"}
403  403  200+ 200+  POST  /mixed/-/embed/estimate       {"table": "secrets", "model": "free"}

200  200  200+ 200+  GET   /vectors/-/embed.json
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets.json
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets/similar.json?q=dog
403  403  200+ 200+  GET   /vectors/-/embed/jobs.json
403  403  200+ 200+  GET   /vectors/-/embed/jobs/1.json
"""

# -- pages, which change nothing either --------------------------------------------------

PAGES = """
200  200  200+ 200+  GET   /-/embed

200  200  200  200   GET   /open/-/embed
200  200  200  200   GET   /open/-/embed/c/by_free
200  200  200  200   GET   /open/-/embed/c/by_free?q=dog
200  200  200  200   GET   /open/-/embed/c/by_free.json?q=dog
200  200  200  200   GET   /open/-/embed/c/by_free.csv?q=dog
200  200  200  200   GET   /open/-/embed/c/by_free/like/1
200  200  200  200   GET   /open/-/embed/c/by_free/like/1.json
200  200  200  200   GET   /open/-/embed/c/by_free/like/1.csv
200  200  200  200   GET   /open/-/embed/c/by_free/about
200  200  200  200   GET   /open/-/embed/c/by_free/about.json
200  200  200  200   GET   /open/-/embed/c/by_shut
403  403  403  200   GET   /open/-/embed/c/by_paid?q=dog
403  403  200  200   GET   /open/-/embed/c/by_given?q=dog
403  403  403  403   GET   /open/-/embed/c/by_shut?q=dog
200  200  200  200   GET   /open/-/embed/c/by_shut/like/1
403  403  200  200   GET   /open/-/embed/new
403  403  200  200   GET   /open/-/embed/new?table=posts
403  403  200  200   GET   /open/-/embed/new.json?table=posts
403  403  200  200   GET   /open/-/embed/jobs
403  403  200  200   GET   /open/-/embed/jobs/1
404  404  404  404   GET   /open/-/embed/c/no-such
404  404  404  404   GET   /open/-/embed/c/by_free/like/9
404  404  404  404   GET   /open/-/embed/c/by_free/image/1

200  200  200+ 200+  GET   /mixed/-/embed
200  200  200  200   GET   /mixed/-/embed/c/posts
200  200  200  200   GET   /mixed/-/embed/c/posts?q=dog
200  200  200  200   GET   /mixed/-/embed/c/posts/like/1
200  200  200  200   GET   /mixed/-/embed/c/posts/about
200  200  200  200   GET   /mixed/-/embed/c/chosen?q=dog
200  200  200+ 200+  GET   /mixed/-/embed/c/chosen/about
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets.json?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets.csv?q=dog
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/like/1
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/like/1.json
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/like/1.csv
403  403  404  404   GET   /mixed/-/embed/c/secrets/image/1
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/about
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets/about.json
404  404  404+ 404+  GET   /mixed/-/embed/c/no-such
403  403  200+ 200+  GET   /mixed/-/embed/new
403  403  200  200   GET   /mixed/-/embed/new?table=posts
403  403  200+ 200+  GET   /mixed/-/embed/new?table=secrets
403  403  200+ 200+  GET   /mixed/-/embed/new.json?table=secrets
403  403  200+ 200+  GET   /mixed/-/embed/new?sql=select+id,+body+from+secrets
403  403  200+ 200+  GET   /mixed/-/embed/jobs
403  403  200  200   GET   /mixed/-/embed/jobs/1
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2

200  200  200+ 200+  GET   /vectors/-/embed
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets?q=dog
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets/like/1
403  403  200+ 200+  GET   /vectors/-/embed/c/secrets/about
403  403  200+ 200+  GET   /vectors/-/embed/jobs
403  403  200+ 200+  GET   /vectors/-/embed/jobs/1
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

# The same by the forms of the pages. What costs money starts only at a price that was shown.
FORMS = """
403  403  303  303   FORM  /open/-/embed/new  {"table":"posts","model":"free"}
403  403  403  400   FORM  /open/-/embed/new  {"table":"posts","model":"paid"}
403  403  403  403   FORM  /open/-/embed/new  {"table":"posts","model":"shut"}
403  403  303  303   FORM  /open/-/embed/c/by_free/sync
403  403  403  303   FORM  /open/-/embed/c/by_paid/sync
403  403  303  303   FORM  /open/-/embed/jobs/1/resume
403  403  403  303   FORM  /open/-/embed/jobs/2/resume
403  403  403  303   FORM  /open/-/embed/jobs/2/retry
403  403  303  303   FORM  /open/-/embed/jobs/4/cancel

403  403  303  303   FORM  /mixed/-/embed/new  {"table":"secrets","model":"free"}
403  403  303  303   FORM  /mixed/-/embed/c/secrets/sync
403  403  303  303   FORM  /mixed/-/embed/jobs/2/pause
403  403  303  303   FORM  /mixed/-/embed/jobs/2/resume
403  403  303  303   FORM  /mixed/-/embed/jobs/2/cancel
403  403  303  303   FORM  /mixed/-/embed/jobs/2/retry
403  403  303  303   FORM  /mixed/-/embed/c/secrets/rename  {"name": "other"}
403  403  303  303   FORM  /mixed/-/embed/c/secrets/delete  {"confirm": "secrets"}
"""

# Where everybody may make collections, the rows and the models are still their owners'.
EVERYBODY_MAKES = """
201  201  201  201   POST  /mixed/-/embed/new  {"table": "posts", "model": "free"}
403  403  201+ 201+  POST  /mixed/-/embed/new  {"table": "secrets", "model": "free"}
403  403  400+ 400+  POST  /mixed/-/embed/estimate  {"table": "posts", "collection": "secrets"}
403  403  201  201   POST  /mixed/-/embed/new  {"sql":"select 1, 2","collection":"x","model":"free"}
403  403  201  201   POST  /rows/-/embed/new   {"table": "posts", "where": "1", "model": "free"}
403  403  201+ 201+  POST  /rows/-/embed/new   {"table": "secrets", "into": "open", "model": "free"}
403  403  200+ 200+  POST  /mixed/-/embed/estimate  {"table": "secrets", "model": "free"}
403  403  200  200   POST  /rows/-/embed/estimate  {"table": "posts", "where": "1", "model": "free"}
200  200  200+ 200+  GET   /mixed/-/embed/jobs.json
200  200  200  200   GET   /mixed/-/embed/jobs/1.json
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2.json
202  202  202  202   POST  /mixed/-/embed/c/posts/sync
403  403  202  202   POST  /mixed/-/embed/c/chosen/sync
403  403  202+ 202+  POST  /mixed/-/embed/c/secrets/sync
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/pause
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/resume
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/cancel
403  403  202+ 202+  POST  /mixed/-/embed/jobs/2/retry
403  403  200  200   POST  /mixed/-/embed/c/secrets/rename  {"name": "other"}
403  403  200+ 200+  POST  /mixed/-/embed/c/secrets/delete  {"confirm": "secrets"}
# In which file its rows are, no job of this site says.
403  403  400+ 400+  POST  /vectors/-/embed/c/secrets/sync
403  403  403  202   POST  /open/-/embed/c/by_paid/sync
# The same on the pages.
200  200  200+ 200+  GET   /mixed/-/embed/new
200  200  200  200   GET   /mixed/-/embed/new?table=posts
403  403  200+ 200+  GET   /mixed/-/embed/new?table=secrets
403  403  200+ 200+  GET   /mixed/-/embed/new?sql=select+id,+body+from+secrets
403  403  200+ 200+  GET   /mixed/-/embed/c/secrets
200  200  200  200   GET   /mixed/-/embed/c/posts/about
200  200  200  200   GET   /mixed/-/embed/jobs/1
403  403  200+ 200+  GET   /mixed/-/embed/jobs/2
403  403  303  303   FORM  /mixed/-/embed/new  {"table":"secrets","model":"free"}
403  403  303  303   FORM  /mixed/-/embed/c/secrets/sync
303  303  303  303   FORM  /mixed/-/embed/c/posts/sync
403  403  303  303   FORM  /mixed/-/embed/c/secrets/rename  {"name": "other"}
403  403  303  303   FORM  /mixed/-/embed/c/secrets/delete  {"confirm": "secrets"}
403  403  303  303   FORM  /mixed/-/embed/jobs/2/cancel
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
404  404  201  201   POST  /mixed/-/embed/new  {"table": "posts", "into": "open", "model": "free"}
200  200  200+ 200+  GET   /-/embed
403  403  200+ 200+  GET   /open/-/embed
403  403  200  200   GET   /open/-/embed/new
403  403  200+ 200+  GET   /open/-/embed/c/by_free?q=dog
403  403  200  200   GET   /open/-/embed/c/by_free.csv?q=dog
403  403  200+ 200+  GET   /open/-/embed/c/by_free/like/1
403  403  200+ 200+  GET   /open/-/embed/c/by_free/about
403  403  200+ 200+  GET   /open/-/embed/jobs/1
403  403  404+ 404+  GET   /open/-/embed/c/no-such
403  403  303  303   FORM  /open/-/embed/c/by_free/rename  {"name": "other"}
"""
SITE_CLOSED = """
403  403  200  200   GET   /-/embed/models
403  403  200  200   GET   /-/embed/models.json
403  403  200+ 200+  GET   /-/embed.json
403  403  200+ 200+  GET   /-/embed
401  403  200  200   GET   /-/embed/v1/models
401  403  200  200   GET   /-/embed/v1/models/free
401  403  200  200   POST  /-/embed/v1/embeddings  {"model": "free", "input": "a"}
"""

# What can be done, and the job under way, is shown to those who may do it (here ``+``).
OFFERS = """
200  200  200+ 200+  GET   /open/-/embed.json
200  200  200+ 200+  GET   /open/-/embed/c/by_free.json
200  200  200+ 200+  GET   /-/embed/v1/models
"""


@table(OFFERS)
async def test_offers(make_trust_site, rows):
    """No link leads where one is refused."""
    offered = '"may_create": true|/-/embed/new|/sync|unfinished_job|"id": "(given|paid|shut)"'
    assert await outcomes(make_trust_site(), rows, offered) == expectations(rows)


@table(READING + PAGES)
async def test_reading(make_trust_site, rows):
    """Whoever asks, nothing is written; whoever is refused is shown and spends nothing."""
    site = make_trust_site()
    files = site.bytes()
    assert await outcomes(site, rows) == expectations(rows)
    assert site.bytes() == files


@table(SITE_CLOSED)
async def test_site_closed(make_trust_site, rows):
    """An allow block of the site closes what belongs to no database."""
    assert await outcomes(make_trust_site(site={"allow": TRUSTED}), rows) == expectations(rows)


@table(CHANGING + FORMS)
async def test_changing(make_trust_site, trust_files, rows):
    """Whoever is refused changes nothing and spends nothing; for others it happens."""
    assert await changes(make_trust_site(), trust_files, rows) == expectations(rows)


@table(EVERYBODY_MAKES)
async def test_everybody_makes(make_trust_site, trust_files, rows):
    """The action embed-create opens no table, no SQL and no model."""
    site = make_trust_site(config={"allow_create": True})
    assert await changes(site, trust_files, rows) == expectations(rows)


@table(DATABASE_CLOSED)
async def test_database_closed(make_trust_site, trust_files, rows):
    """An allow block of the database closes all that is in it, to makers too."""
    site = make_trust_site(databases={"open": {"allow": TRUSTED}}, config={"allow_create": True})
    assert await changes(site, trust_files, rows, "by_free") == expectations(rows)


async def changes(site, trust_files, rows, private=PRIVATE):
    """Return what each actor gets, each from the files as they were."""
    found = {}
    for row in rows:
        state = STATES.get(row.path.rpartition("/")[2])
        cells = []
        for actor in ACTORS:
            if state:
                execute(site.folder / f"{row.database}.db", state)
            files, calls = site.bytes(), site.calls()
            response = await site.ask(row, actor)
            await site.settled()
            if response.status_code >= 400:
                assert site.bytes() == files, (actor, row)
                assert site.calls() == calls, (actor, row)
            elif row.method != "GET" and not row.path.endswith("/estimate"):
                assert site.bytes() != files, (actor, row)
            if site.bytes() != files or state:
                site.restore(trust_files)
            cells.append(outcome(response, private))
        found[str(row)] = " ".join(cells)
    return found


async def test_every_route_is_in_the_matrix():
    """Whoever adds a route says here who may use it, with each of its actions."""
    asked = {row.path.partition("?")[0] for row in read_table(READING + PAGES + CHANGING)}
    patterns = [one for pattern, _ in routes() for one in actions_of(pattern)]
    # The first that fits is the one that answers; some fit what another answers.
    answering = {next((p for p in patterns if re.search(p, path)), None) for path in asked}
    assert answering == set(patterns)


def actions_of(pattern):
    """Return the pattern once for each of the words it lists."""
    found = re.search(r"\(\?P<\w+>((?:[\w\\.]+\|)+[\w\\.]+)\)", pattern)
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
400  /open/view_{model}.json?_where=vector+is+not+null
400  /open/column_{model}
400  /open/column_{model}.json?_facet=vector
400  /open/column_{model}/1.json
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
async def test_sql(make_trust_site, model):
    """In every place where SQL runs, who may use a model is the same."""
    site = make_trust_site()
    found = {path: await answers(site, path, model) for _, path in PLACES}
    assert found == {
        path: ["called" if may == "yes" else refusal for may in MODELS_OF[model]]
        for refusal, path in PLACES
    }


async def answers(site, path, model, actors=ACTORS):
    """Return whether each actor's request to a place called the model, or how it ended."""
    found = []
    row = Row((), "GET", path.replace("{model}", model), None)
    for actor in actors:
        PROCESS_QUERIES.clear()
        calls = site.calls()[model]
        response = await site.ask(row, actor)
        if site.calls()[model] > calls:
            assert response.status_code == 200, response.text
            found.append("called")
        else:
            found.append(str(response.status_code))
    return found


async def test_sql_refusal_says_why(make_trust_site):
    """Whoever may not use the model reads that, wherever Datasette shows errors."""
    site = make_trust_site()
    for _, path in PLACES:
        response = await site.ask(Row((), "GET", path.replace("{model}", "paid"), None), "plain")
        is_said = "You may not use the model paid here" in response.text
        assert is_said or (".csv" in path and "paid" not in response.text), path


async def test_similar_filter_needs_a_collection_that_may_be_seen(make_trust_site):
    """On the page of the public table, and on that of the private one."""
    text = """
    200  200  200  200   GET  /mixed/posts.json?_similar_to=1
    403  403  200+ 200+  GET  /mixed/secrets.json?_similar_to=1
    404+ 404+ 404+ 404+  GET  /mixed/posts.json?_similar=a&_similar_collection=secrets
    403  403  400+ 400+  GET  /rows/secrets.json?_similar_to=1
    403  403  200+ 200+  GET  /rows/secrets.json?_similar_to=1&_similar_collection=vectors/secrets
    """
    rows = read_table(text)
    assert await outcomes(make_trust_site(), rows) == expectations(rows)


# Everything of ours in SQL but llm_embed works with what is there and calls no model.
V, W = "llm_embed_encode('[3, 4]')", "llm_embed_encode('[1, 0]')"
WITHOUT_A_MODEL = {
    "llm_embed_encode": f"select hex({V})",
    "llm_embed_decode": f"select llm_embed_decode({V})",
    "llm_embed_dimensions": f"select llm_embed_dimensions({V})",
    "llm_embed_normalize": f"select hex(llm_embed_normalize({V}))",
    "llm_embed_truncate": f"select hex(llm_embed_truncate({V}, 1))",
    "llm_embed_add": f"select hex(llm_embed_add({V}, {W}))",
    "llm_embed_subtract": f"select hex(llm_embed_subtract({V}, {W}))",
    "llm_embed_scale": f"select hex(llm_embed_scale({V}, 2))",
    "llm_embed_cosine": f"select llm_embed_cosine({V}, {W})",
    "llm_embed_dot": f"select llm_embed_dot({V}, {W})",
    "llm_embed_l2": f"select llm_embed_l2({V}, {W})",
    "llm_embed_id_number": "select llm_embed_id_number('7')",
    "llm_embed_id_part": "select llm_embed_id_part('a,b', 2)",
    "llm_embed_sum": f"select hex(llm_embed_sum({V}))",
    "llm_embed_average": f"select hex(llm_embed_average({V}))",
    "llm_embed_top": f"select llm_embed_top('1', {V}, {W}, 5)",
}
QUERY_PAGE = "/open/-/query.json" if IS_ONE else "/open.json"


@pytest.mark.parametrize("prepared", [True, False], ids=["asked", "not wrapped"])
async def test_functions_without_a_model_need_no_permission(make_trust_site, monkeypatch, prepared):
    """Where every model is closed to all, and where nobody knows who asks."""
    if not prepared:
        take_wrapper_away(monkeypatch)
    site = make_trust_site(config={"allow": dict.fromkeys(MODELS, False)})
    for sql in WITHOUT_A_MODEL.values():
        row = Row((), "GET", f"{QUERY_PAGE}?{urlencode({'sql': sql, '_shape': 'arrays'})}", None)
        for actor in ACTORS:
            response = await site.ask(row, actor)
            assert response.status_code == 200, response.text
            assert response.json()["rows"][0][0] is not None
    assert set(site.calls().values()) == {0}


async def test_every_function_is_in_the_matrix():
    """Whoever adds a function says here whether it calls a model."""

    class Recording:
        def __init__(self):
            self.names = set()

        def create_function(self, name, *_, **__):
            self.names.add(name)

        def create_aggregate(self, name, *_):
            self.names.add(name)

    recorded = Recording()
    register(recorded, widen_page_cache=False)
    assert recorded.names == {"llm_embed", *WITHOUT_A_MODEL}


# -- where Datasette does not say who asks -------------------------------------------------


def take_wrapper_away(monkeypatch):
    """Let Datasette's own executor run queries, as if it could not be wrapped."""
    for module in (server, executor, sql_functions):
        monkeypatch.setattr(module, "wrap_executor", lambda datasette: None)


# Datasette 1.0 carries the context of a request into its threads without our help.
KNOWN_WITHOUT_US = {"paid": ("root",)} if IS_ONE else {}
SQL_PLACES = [(refusal, path) for refusal, path in PLACES if refusal != "403"]


@pytest.mark.parametrize("model", ["free", "paid"])
async def test_without_the_executor_wrapper_nothing_is_spent(make_trust_site, monkeypatch, model):
    """What cannot be seen is not guessed: the free model answers, the others nobody."""
    take_wrapper_away(monkeypatch)
    site = make_trust_site()
    known = list(ACTORS) if model == "free" else KNOWN_WITHOUT_US.get(model, ())
    found = {path: await answers(site, path, model) for _, path in SQL_PLACES}
    assert found == {
        path: ["called" if actor in known else refusal for actor in ACTORS]
        for refusal, path in SQL_PLACES
    }
    assert not hasattr(site.datasette.executor, "datasette_embed_submit")


async def test_without_the_context_of_the_request_nothing_is_spent(make_trust_site, monkeypatch):
    """The same for root, and for a model that is open to all, on either version."""
    monkeypatch.setattr(contextvars, "copy_context", contextvars.Context)
    site = make_trust_site(config={"allow": {"paid": True, "shut": False}})
    for model in ("free", "paid", "shut"):
        found = {path: await answers(site, path, model, ["root"]) for _, path in SQL_PLACES}
        assert found == {
            path: ["called" if model == "free" else refusal] for refusal, path in SQL_PLACES
        }
    assert [name for name, calls in site.calls().items() if calls] == ["free"]


# -- writing, on Datasette 1.0 -----------------------------------------------------------

WRITES = """
201  201  201  201   POST  /open/written_free/-/insert   {"row": {"body": "a"}}
400  400  400  400   POST  /open/written_paid/-/insert   {"row": {"body": "a"}}
400  400  400  400   POST  /open/written_given/-/insert  {"row": {"body": "a"}}
400  400  400  400   POST  /open/written_shut/-/insert   {"row": {"body": "a"}}
"""


@pytest.mark.skipif(not IS_ONE, reason="Datasette 0.65 writes nothing for visitors")
@table(WRITES)
async def test_writes_call_no_model_that_costs(make_trust_site, rows):
    """A write has no visitor: whoever sends it, only what is free answers in a trigger."""
    site = make_trust_site(databases={"open": {"permissions": {"insert-row": True}}})
    assert await outcomes(site, rows) == expectations(rows)
    assert [name for name, calls in site.calls().items() if calls] == ["free"]
