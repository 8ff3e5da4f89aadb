"""What mkdocs cannot do by itself: pages from outside docs/, links to files that are no pages, a complete API page."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import conestool

log = logging.getLogger("mkdocs.hooks.site_pages")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "format.md": "spec/cone-1.md",
    "security.md": "SECURITY.md",
}
"""Pages of the site by the file each is made from."""
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to pages of the site; a file of the repository that is no page is named by its path."""
    here = page.file.src_uri
    source = ROOT / OUTSIDE[here] if here in OUTSIDE else DOCS / here
    return LINK.sub(lambda link: relinked(link, source.parent, here), markdown)


def relinked(link: re.Match[str], folder: Path, here: str) -> str:
    """A link from a file in `folder`, as it reads on the page `here`; a broken one stays, for mkdocs to report."""
    text, target, anchor = link[1], link[2], link[3] or ""
    path = Path(os.path.normpath(folder / target))
    if ":" in target or not path.exists():
        return link[0]
    inside = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS):
        page = path.relative_to(DOCS).as_posix()
    else:
        page = next((name for name, made_from in OUTSIDE.items() if made_from == inside), "")
    if page:
        return f"[{text}]({os.path.relpath(page, Path(here).parent)}{anchor})"
    name = text.replace("\\", "").strip("`")
    if name.rstrip("/") in inside:
        return f"`{name}`" if "/" in name else f"`{inside}`"
    return f"{text} (`{inside}`)"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Warn, and so fail a strict build, if a public name is missing from the API reference."""
    if page.file.src_uri == "api.md":
        for name in conestool.__all__:
            if not name.startswith("_") and f'id="conestool.{name}"' not in html:
                log.warning("api.md: conestool.%s is public, but not in the API reference", name)
