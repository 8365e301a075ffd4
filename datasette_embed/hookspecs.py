"""Hookspecs: what another plugin may add to this one.

Layer 1: imports nothing of ours. The hooks live on Datasette's own plugin manager, so
that a third party writes an ordinary Datasette plugin. Only specifications belong here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pluggy import HookspecMarker

hookspec = HookspecMarker("datasette")


@hookspec
def register_embedding_models(register: Callable[..., None]) -> None:
    """Register embedding models that SQL, the command line and Python can then name.

    Call ``register(model, aliases=("short",))`` once for each model. ``model`` is an
    instance of ``datasette_embed.EmbeddingModel``, or any object with a ``model_id`` and
    an ``embed_batch(items)``, so a class written for LLM works as it is::

        from datasette import hookimpl
        from datasette_embed import EmbeddingModel

        class Lengths(EmbeddingModel):
            model_id = "lengths"
            dimensions = 1

            def embed_batch(self, items, *, kind=None, key=None):
                return [[float(len(item))] for item in items]

        @hookimpl
        def register_embedding_models(register):
            register(Lengths(), aliases=("len",))

    The hook is called once for each Datasette instance, when a model is first needed:
    it should be quick, and a model should load its weights in ``warm()`` or in the first
    ``embed_batch``. Model instances are used by several threads at once. A mistake is
    refused by ``register`` with a ``ModelRegistrationError``; a plugin that raises is
    logged and listed as unavailable, and the models of the others work.

    Args:
        register: ``register(model, aliases=())``; ids and aliases are matched exactly, and
            a name that is already taken is refused.
    """


def add_hookspecs() -> None:
    """Make the hooks known to Datasette's plugin manager; calling it again does nothing."""
    from datasette.plugins import pm

    caller = getattr(pm.hook, "register_embedding_models", None)
    if caller is None or not caller.has_spec():
        pm.add_hookspecs(sys.modules[__name__])


def add_hookspecs_when_loading() -> None:
    """Make the hooks known if Datasette is loading its plugins now.

    Early, so that a plugin's wrong signature is refused where it is loaded. A script that
    imports this package without Datasette should not load every installed plugin for it.
    """
    plugins: Any = sys.modules.get("datasette.plugins")
    if hasattr(plugins, "pm"):
        add_hookspecs()
