"""`cones serve`: pictures with concepts for programs that speak A1111's HTTP interface."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from conestool.cli import _options, _output
from conestool.cli._options import MAX_COUNT, DrawingWhere, value
from conestool.errors import UsageError

_LIMITS = "Limits of a request"
_LOCAL = ("127.0.0.1", "localhost")
_VARIABLE = "CONES_TOKEN"


def serve(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER...", help="Folders of .cone files. Default: as render.")
    ] = None,
    *,
    host: Annotated[str, value("ADDRESS", "Where to listen; any other address needs a token.")] = "127.0.0.1",
    port: Annotated[int, value("N", "Port; 0 takes a free one.", min=0, max=65535)] = 7860,
    token: Annotated[str | None, value("T", f"Password of all who ask. Default: ${_VARIABLE}.")] = None,
    max_size: Annotated[int, value("N", "Pixels of a side.", panel=_LIMITS, min=8, max=1 << 16)] = 1024,
    max_steps: Annotated[int, value("N", "Sampling steps.", panel=_LIMITS, min=1, max=MAX_COUNT)] = 150,
    where: DrawingWhere,
) -> None:
    """Draw pictures for programs that speak A1111's HTTP interface.

    Prompts name concepts, or have them as <cone:dog:0.8>. The folders are watched: a new file is there at once.
    """
    try:
        import uvicorn

        from conestool.serving.app import make_app
    except ImportError as error:
        raise UsageError(f"a package is missing: {error.name}", "pip install 'conestool[serve]'") from error
    from conestool.rendering import search_folders
    from conestool.serving.drawing import Index, Painter

    token = token or os.environ.get(_VARIABLE, "")
    if not (token or host in _LOCAL):
        raise UsageError(f"--host {host}: others could draw here", f"give --token, or set ${_VARIABLE}")
    if lost := [folder for folder in folders or () if not folder.is_dir()]:
        raise UsageError(f"{lost[0]}: no such folder", "name folders of .cone files")
    listener = _listen(host, port)
    base = _options.open_model(where)
    index = Index(folders or search_folders())
    offers = index.update().offers
    hosts = ["*"] if token else list(_LOCAL)  # no page elsewhere may pass as this machine
    app = make_app(Painter(base, index), max_size=max_size, max_steps=max_steps, token=token, hosts=hosts)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    _output.tell(f"{base.id} with {_output.amount(len(offers), 'concept')} on {url}")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket at that address, before the model is loaded; UsageError if it is taken."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"{host}:{port}: {error.strerror or error}", "choose another --port, or 0 for any") from error
