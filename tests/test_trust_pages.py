"""Who may see what on Datasette's own pages: anonymous, plain, allowed and root.

Each table is read like this: what anonymous, plain, allowed and root get, then the request.
``200+`` shows something of the private table, ``200`` does not, ``200*`` may do either.
``{own}`` is each of the tables and views that hold what was embedded.
"""

from __future__ import annotations

import pytest

from tests.trust_site import (
    DERIVED,
    IS_ONE,
    OWN_TABLES,
    expectations,
    make_trust_site,
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

# -- a site with all of them -----------------------------------------------------------
PAGES_OF_SITE = """
200  200  200+ 200+  GET  /
200  200  200+ 200+  GET  /.json
"""
PAGES_OF_SITE_ONE = """
200  200  200+ 200+  GET  /-/jump.json?q=secrets
200  200  200  200   GET  /-/jump.json?q=similar_rows
200  200  200+ 200+  GET  /-/schema
200  200  200+ 200+  GET  /-/schema.json
200  200  200+ 200+  GET  /-/schema.md
200  200  200+ 200+  GET  /-/allowed.json?action=view-table
"""

# -- all of it is public ---------------------------------------------------------------
PAGES_OF_OPEN = """
200  200  200  200   GET  /open
200  200  200  200   GET  /open.json
200  200  200  200   GET  /open/posts
200  200  200  200   GET  /open/embeddings
200  200  200  200   GET  /open/embeddings.csv
200  200  200  200   GET  /open/{own}.json
200  200  200  200   GET  /open/embeddings/1,1.json
200  200  200  200   GET  /open/embeddings/1,1.blob?_blob_column=embedding
200  200  200  200   GET  /open/_sqlite_migrations.json
"""

# -- one public table and a private one, with a collection of each ---------------------
# The tables hold the rows of both: who may not see one of the sources sees none of them.
PAGES_OF_MIXED = """
200  200  200+ 200+  GET  /mixed
200  200  200+ 200+  GET  /mixed.json

200  200  200  200   GET  /mixed/posts
200  200  200  200   GET  /mixed/posts.json
200  200  200  200   GET  /mixed/posts.csv
200  200  200  200   GET  /mixed/posts/1
200  200  200  200   GET  /mixed/posts/1.json
200  200  200  200   GET  /mixed/posts.json?_facet=body
403  403  200+ 200+  GET  /mixed/secrets
403  403  200+ 200+  GET  /mixed/secrets.json
403  403  200+ 200+  GET  /mixed/secrets.csv
403  403  200+ 200+  GET  /mixed/secrets/1
403  403  200+ 200+  GET  /mixed/secrets.json?_facet=body

403  403  200* 200*  GET  /mixed/{own}.json
403  403  200+ 200+  GET  /mixed/collections
403  403  200+ 200+  GET  /mixed/embeddings
403  403  200+ 200+  GET  /mixed/nearby
403  403  200+ 200+  GET  /mixed/nearby.csv
403  403  200+ 200+  GET  /mixed/_embed_jobs
403  403  200+ 200+  GET  /mixed/_embed_jobs.csv
403  403  200   200  GET  /mixed/similar_rows.csv
200  200  200  200   GET  /mixed/_sqlite_migrations.json
403  403  200+ 200+  GET  /mixed/collections.json
403  403  200+ 200+  GET  /mixed/embeddings.json
403  403  200+ 200+  GET  /mixed/nearby.json
403  403  200+ 200+  GET  /mixed/nearby_again.json
403  403  200+ 200+  GET  /mixed/embeddings_fts.json
403  403  200+ 200+  GET  /mixed/_embed_collections.json
403  403  200+ 200+  GET  /mixed/_embed_jobs.json
403  403  200+ 200+  GET  /mixed/_embed_failures.json

403  403  200+ 200+  GET  /mixed/embeddings.json?_facet=content&_facet=collection_id
403  403  200+ 200+  GET  /mixed/embeddings.json?content__contains=hush
403  403  200+ 200+  GET  /mixed/embeddings.json?_search=hush
403  403  200+ 200+  GET  /mixed/nearby.json?_facet=content
403  403  200+ 200+  GET  /mixed/_embed_jobs.json?_facet=collection

403  403  200   200  GET  /mixed/embeddings/1,1
403  403  200   200  GET  /mixed/embeddings/1,1.json
403  403  200+ 200+  GET  /mixed/embeddings/2,1
403  403  200+ 200+  GET  /mixed/embeddings/2,1.json
403  403  200   200  GET  /mixed/embeddings/2,1.blob?_blob_column=embedding
403  403  200   200  GET  /mixed/collections/1.json
403  403  200+ 200+  GET  /mixed/collections/2.json
403  403  200+ 200+  GET  /mixed/_embed_collections/2.json
403  403  200+ 200+  GET  /mixed/_embed_jobs/2.json
403  403  200+ 200+  GET  /mixed/_embed_failures/2,9.json

200  200  200+ 200+  GET  /mixed/notes
200  200  200+ 200+  GET  /mixed/notes.json?_labels=on&_shape=objects
200  200  200+ 200+  GET  /mixed/notes.csv?_labels=on
200  200  200+ 200+  GET  /mixed/notes.json?_facet=collection&_extra=facet_results
200  200  200  200   GET  /mixed/notes/1.json
"""
PAGES_OF_MIXED_OLD = """
403  403  200+ 200+  GET  /mixed?sql=select+body+from+secrets
403  403  200+ 200+  GET  /mixed.json?sql=select+content+from+embeddings
403  403  200+ 200+  GET  /mixed.csv?sql=select+content+from+nearby
403  403  200+ 200+  GET  /mixed/posts.json?_where=exists+(select+'hush'+from+secrets)
403  403  200  200   GET  /mixed/notes.json?_search=note&_fts_table=embeddings_fts
"""
PAGES_OF_MIXED_ONE = """
403  403  200+ 200+  GET  /mixed/-/query?sql=select+body+from+secrets
403  403  200+ 200+  GET  /mixed/-/query.json?sql=select+content+from+embeddings
403  403  200+ 200+  GET  /mixed/-/query.csv?sql=select+content+from+nearby
403  403  200  200   GET  /mixed/posts.json?_where=exists+(select+'hush'+from+secrets)
400  400  400  400   GET  /mixed/notes.json?_search=note&_fts_table=embeddings_fts
200  200  200+ 200+  GET  /mixed/-/schema
200  200  200+ 200+  GET  /mixed/-/schema.json
200  200  200+ 200+  GET  /mixed/-/schema.md
403  403  200  200   GET  /mixed/embeddings/-/schema.json
403  403  200  200   GET  /mixed/similar_rows/-/schema.json
403  403  200  200   POST  /mixed/embeddings/-/count
403  403  200+ 200+  GET  /mixed/embeddings/-/fragment
403  403  200  200   GET  /mixed/embeddings/-/autocomplete?q=2
403  403  200+ 200+  GET  /mixed/collections/-/autocomplete?q=secret
403  403  200  200   GET  /mixed/_embed_jobs/-/autocomplete?q=2
"""

# -- a private table alone, where everybody may run SQL --------------------------------
# As the owner of the site allows it, that shows all of the table and of what is made of it.
PAGES_OF_CLOSED = """
403  403  200+ 200+  GET  /closed/secrets.json
403  403  200* 200*  GET  /closed/{own}.json
403  403  200+ 200+  GET  /closed/embeddings/1,1.json
403  403  200  200   GET  /closed/embeddings/1,1.blob?_blob_column=embedding
"""
PAGES_OF_CLOSED_OLD = """
200  200  200+ 200+  GET  /closed.json
200+ 200+ 200+ 200+  GET  /closed.json?sql=select+content+from+embeddings
"""
# To whoever may run SQL, Datasette 1.0 names all tables there are.
PAGES_OF_CLOSED_ONE = """
200+ 200+ 200+ 200+  GET  /closed.json
200+ 200+ 200+ 200+  GET  /closed/-/query.json?sql=select+content+from+embeddings
"""

# -- the vectors of a private table that is in another database ------------------------
# Whoever may not see that table may run no SQL here, which would show what is made of it.
PAGES_OF_VECTORS = """
200  200  200+ 200+  GET  /vectors
200  200  200+ 200+  GET  /vectors.json
403  403  200* 200*  GET  /vectors/{own}.json
403  403  200+ 200+  GET  /vectors/embeddings
403  403  200+ 200+  GET  /vectors/nearby.csv
403  403  200+ 200+  GET  /vectors/embeddings/1,1.json
403  403  200  200   GET  /vectors/embeddings/1,1.blob?_blob_column=embedding
403  403  200+ 200+  GET  /rows/secrets.json
200  200  200+ 200+  GET  /vectors/notes.json?_labels=on&_shape=objects
403  403  200  200   GET  /vectors/notes.json?_where=1
"""
PAGES_OF_VECTORS_OLD = """
403  403  200+ 200+  GET  /vectors.json?sql=select+content+from+embeddings
"""
PAGES_OF_VECTORS_ONE = """
403  403  200+ 200+  GET  /vectors/-/query.json?sql=select+content+from+embeddings
200  200  200+ 200+  GET  /vectors/-/schema.json
"""

PAGES = "".join(
    [PAGES_OF_SITE, PAGES_OF_OPEN, PAGES_OF_MIXED, PAGES_OF_CLOSED, PAGES_OF_VECTORS]
    + (
        [PAGES_OF_SITE_ONE, PAGES_OF_MIXED_ONE, PAGES_OF_CLOSED_ONE, PAGES_OF_VECTORS_ONE]
        if IS_ONE
        else [PAGES_OF_MIXED_OLD, PAGES_OF_CLOSED_OLD, PAGES_OF_VECTORS_OLD]
    )
)


@table(PAGES)
async def test_pages(make_trust_site, rows):
    """What was embedded is shown to those who may see where it is from."""
    assert await outcomes(make_trust_site(), rows) == expectations(rows)


async def test_every_table_of_ours_is_in_the_matrix(make_trust_site):
    """Whoever adds a table finds it hidden; no other one is."""
    site = make_trust_site()
    for name in ("mixed", "open", "closed", "vectors"):
        database = site.datasette.get_database(name)
        tables = set(await database.table_names()) | set(await database.view_names())
        sources = {"posts", "secrets", "notes", "_sqlite_migrations"}
        rest = {
            t
            for t in tables - sources
            if not t.startswith(("view_", "column_", "written_", "sqlite_"))
        }
        shadows = {t for t in rest if t.startswith("embeddings_fts_")}
        assert rest - shadows - {"of_secrets"} == {*OWN_TABLES, *DERIVED}
        asked = {row.path for row in read_table(PAGES)}
        assert {f"/{name}/{own}.json" for own in [*OWN_TABLES, *DERIVED]} <= asked
