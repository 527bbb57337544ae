"""Search in use: a knowledge base over HTTP, as a tool of agents and as a retriever of other libraries, and the page on
which a person judges units. `main` is `wbrag serve`; others may call `hits.hits_of`, `app.app_of` and the retrievers.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from typing import Any

DESCRIPTION = """Serve a knowledge base: search over HTTP, an MCP tool for agents, a page to judge units.

    wbrag serve RUN                                      http://127.0.0.1:8000: /docs, /search, /review, /mcp, /metrics
    wbrag serve RUN --host 0.0.0.0 --api-key-env KB_KEY  for other machines, with the key in the variable KB_KEY
    wbrag serve STORE --mcp                              the MCP tool on standard input and output

KB is a run's folder, or one store (a folder or an s3:// URL). Exit codes: 1 failed, 2 it cannot be served (the message
says why), 130 and 143 stopped by Ctrl-C and SIGTERM. docs/serving.md tells more.
"""


def parsed(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="wbrag serve", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kb", metavar="KB", help="a run's folder or a store")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--api-key-env", default="", metavar="VAR", help="variable of the environment with the key")
    parser.add_argument("--without-key", action="store_true", help="whoever reaches --host may search and judge")
    parser.add_argument("--follow", type=float, default=5.0, metavar="SECONDS", help="look for new versions; 0: never")
    review = parser.add_argument("--review", action=argparse.BooleanOptionalAction, default=None, help="the page")
    review.help = "the page on which units are judged (default: for a run's folder)"
    parser.add_argument("--mcp", action="store_true", help="no HTTP: the MCP tool on standard input and output")
    return parser.parse_args(words)


def key_of(variable: str) -> str:
    """The API key in a variable of the environment, "" where none is named; it is never printed. ConfigError where the
    variable is not set or has no key that can stand in a header.
    """
    from wbrag.config import ConfigError

    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise ConfigError(f"--api-key-env: the variable {variable!r} is not set; set it to the key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"--api-key-env: the key in {variable!r} has characters that cannot stand in a header")
    return key


def local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(words: list[str] | None = None) -> int:
    """Serve until stopped; returns the exit code."""
    from wbrag.config import ConfigError
    from wbrag.run.folder import RunError
    from wbrag.store.files import StoreError

    args = parsed(words)
    try:
        key = key_of(args.api_key_env)
        if not (key or args.without_key or args.mcp or local(args.host)):
            told = "is reached from other machines: give --api-key-env VAR, or --without-key where none is to be needed"
            raise ConfigError(f"--host: {args.host!r} {told}")
        return _served(args, key)
    except (ConfigError, RunError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command line
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; pip install 'wbrag[serve]'", file=sys.stderr)  # noqa: T201
        return 2


def _served(args: argparse.Namespace, key: str) -> int:
    from contextlib import closing

    import uvicorn

    from wbrag.serve.app import app_of
    from wbrag.serve.hits import Served
    from wbrag.serve.tool import tool_server

    with closing(Served(args.kb, args.follow)) as served:
        if args.mcp:
            tool_server(served).run("stdio")
            return 0
        app = app_of(served, key=key, local=not key and local(args.host), review=args.review)
        pages = "/docs /review" if app.state.reviewed else "/docs"
        told = f"{args.kb}: {served.told()}; http://{args.host}:{args.port} ({pages} /mcp /metrics)"
        how: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 10}
        config = uvicorn.Config(app, host=args.host, port=args.port, **how)
        try:
            listening = [config.bind_socket()]
        except SystemExit:  # it has said why
            print(f"error: cannot listen at {args.host}:{args.port}; give another --port", file=sys.stderr)  # noqa: T201
            return 1
        print(told, flush=True)  # noqa: T201
        try:
            uvicorn.Server(config).run(listening)
        except KeyboardInterrupt:  # which it raises again once it has stopped
            return 130
        except SystemExit:  # it could not start, as it has said; its own code is 3
            return 1
    return 0
