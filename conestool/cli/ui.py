"""`cones ui`: a page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conestool.cli import _options, _output
from conestool.cli._options import DrawingWhere, flag, value
from conestool.errors import UsageError


def ui(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where .cone files are and go. Default: here.", show_default=False)
    ] = Path(),
    *,
    port: Annotated[int, value("N", "Port on 127.0.0.1.", min=1, max=65535)] = 7860,
    no_browser: Annotated[bool, flag("Open no browser.")] = False,
    share: Annotated[bool, flag("Ask Gradio for a public address, too.")] = False,
    where: DrawingWhere,
) -> None:
    """Find, merge and draw in the browser.

    Needs conestool[ui]. The page is for this machine alone, unless --share makes it public. Ctrl-C ends it.
    """

    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder", "make it first, or name another")
    try:
        from conestool import ui as page
    except ModuleNotFoundError as error:
        raise UsageError(f"cones ui needs {error.name}", "pip install 'conestool[ui]'") from error
    base = _options.open_model(where)
    page.serve(base, folder, port, share=share, browser=not no_browser, tell=_output.tell)
