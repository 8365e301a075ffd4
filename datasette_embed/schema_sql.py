"""Every table and trigger, as SQL.

Layer 1: imports nothing of ours. Nothing is executed here; that is ``schema``.
"""

from __future__ import annotations

import re

MIGRATION_TABLE = """
create table "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT
);
create unique index "idx__sqlite_migrations_migration_set_name"
    on "_sqlite_migrations" ("migration_set", "name");
"""

LLM_TABLES = """
create table "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT, "model" TEXT);
create unique index "idx_collections_name" on "collections" ("name");
create table "embeddings" (
   "collection_id" INTEGER REFERENCES "collections"("id"),
   "id" TEXT,
   "embedding" BLOB,
   "content" TEXT,
   "content_blob" BLOB,
   "content_hash" BLOB,
   "metadata" TEXT,
   "updated" INTEGER,
   PRIMARY KEY ("collection_id", "id")
);
create index "idx_embeddings_content_hash" on "embeddings" ("content_hash");
"""

OUR_TABLES_SQL = """
create table _embed_collections (
   collection_id integer primary key,
   name text not null,
   model text not null,
   fingerprint text not null,
   dimensions integer,
   metric text not null,
   source text,
   store integer not null default 0,
   rebuilding integer not null default 0,
   created_at text not null
);
create table _embed_generations (
   collection_id integer primary key,
   generation integer not null
);
create table _embed_warnings (
   collection_id integer not null,
   entry_id text not null,
   warning text not null,
   tokens integer not null,
   tokens_lost integer not null,
   primary key (collection_id, entry_id, warning)
);
create table _embed_jobs (
   id integer primary key autoincrement,
   collection_id integer,
   collection text not null,
   model_id text not null,
   status text not null,
   reason text,
   owner text,
   epoch integer not null default 0,
   heartbeat_at text,
   rows_total integer not null default 0,
   rows_done integer not null default 0,
   embedded integer not null default 0,
   reused integer not null default 0,
   unchanged integer not null default 0,
   refreshed integer not null default 0,
   blank integer not null default 0,
   failed integer not null default 0,
   removed integer not null default 0,
   tokens integer not null default 0,
   created_at text not null,
   started_at text,
   finished_at text,
   action text,
   options text,
   request text,
   actor text,
   signature text
);
create table _embed_failures (
   job_id integer not null,
   entry_id text not null,
   content_hash blob,
   message text not null,
   attempts integer not null,
   primary key (job_id, entry_id)
);
create table _embed_similarities (
   table_name text primary key collate nocase,
   collection_id integer not null,
   collection text not null,
   model text not null,
   fingerprint text,
   metric text not null,
   number integer not null
);
create table _embed_similarity_entries (
   table_name text not null collate nocase,
   entry_id text not null,
   digest blob not null,
   primary key (table_name, entry_id)
) without rowid;
create table _embed_watches (
   collection_id integer primary key,
   table_name text not null,
   key_column text,
   allows_paid integer not null default 0,
   signature text,
   created_at text not null
);
create table _embed_changes (
   collection_id integer not null,
   key text not null,
   change integer not null,
   primary key (collection_id, key)
) without rowid;
"""

#: Every table made here: not something to embed.
OUR_TABLES = frozenset(
    re.findall(r'create table "?(\w+)', MIGRATION_TABLE + LLM_TABLES + OUR_TABLES_SQL)
)

_BUMP = """
  insert into _embed_generations (collection_id, generation)
    select {row}.collection_id, 0 where typeof({row}.collection_id) = 'integer' and not exists (
      select 1 from _embed_generations where collection_id = {row}.collection_id);
  update _embed_generations set generation = generation + 1 + (random() & 16777215)
    where collection_id = {row}.collection_id;
"""
# In steps nobody can foresee: two files, or one file made anew under the same name, must
# not come to the same number with other vectors behind it.
#
# Not an upsert and not "insert or ignore": LLM writes with INSERT OR REPLACE, and SQLite
# lets the outer statement's conflict rule override the one inside a trigger, which would
# set the generation back to the start.

#: name -> SQL. They touch plain tables only, so that LLM and any other tool can write.
TRIGGERS = {
    "_embed_entry_inserted": "create trigger _embed_entry_inserted after insert on embeddings begin"
    + _BUMP.format(row="new")
    # A tool that replaces rows without recursive triggers fires no deletion.
    + """
  delete from _embed_warnings where collection_id = new.collection_id and entry_id = new.id;
end""",
    "_embed_entry_updated": "create trigger _embed_entry_updated after update on embeddings begin"
    + _BUMP.format(row="new")
    + "end",
    "_embed_entry_moved": """create trigger _embed_entry_moved
after update of collection_id on embeddings when old.collection_id is not new.collection_id begin"""
    + _BUMP.format(row="old")
    + "end",
    "_embed_entry_deleted": "create trigger _embed_entry_deleted after delete on embeddings begin"
    + _BUMP.format(row="old")
    + """
  delete from _embed_warnings where collection_id = old.collection_id and entry_id = old.id;
end""",
    # SQLite gives the id of a deleted collection to the next one made.
    "_embed_collection_deleted": """create trigger _embed_collection_deleted
after delete on collections begin
  delete from _embed_collections where collection_id = old.id;
  delete from _embed_generations where collection_id = old.id;
  delete from _embed_warnings where collection_id = old.id;
  delete from _embed_failures where job_id in
    (select id from _embed_jobs where collection_id = old.id);
  delete from _embed_jobs where collection_id = old.id;
  delete from _embed_similarity_entries where table_name in (
    select table_name from _embed_similarities where collection_id = old.id);
  update _embed_similarities set collection_id = 0 where collection_id = old.id;
  delete from _embed_watches where collection_id = old.id;
  delete from _embed_changes where collection_id = old.id;
end""",
}

#: Columns of ``_embed_jobs`` that an earlier version did not have: name -> type.
LATER_JOB_COLUMNS = {
    "action": "text",
    "options": "text",
    "request": "text",
    "actor": "text",
    "signature": "text",
}
