"""Runner: jobs in the background of a Datasette server.

Layer 10: imports what a run is made of. ``site`` knows the Datasette, ``rows`` opens the
files, ``execution`` runs one job, ``core`` makes, queues and steers them, and ``wiring``
starts and stops them with the server. No page belongs here, and nobody's permission is
asked: whoever calls has done that.
"""

from .wiring import get_runner, note_event, start_with_server, stop, wrap_application

__all__ = ["get_runner", "note_event", "start_with_server", "stop", "wrap_application"]
