"""The server that an app runs in."""

from typing import Any

_LARGEST_HEADERS = 65_536
_GRACE_S = 5


def create_server(app: Any) -> Any:
    """Return a uvicorn server, whose `run(sockets=[...])` serves an app until it is told to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=_LARGEST_HEADERS,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return uvicorn.Server(config)
