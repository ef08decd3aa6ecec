"""Checks the built pages: each link and picture within the site leads to a file, and to a place in it."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

logger = logging.getLogger(__name__)


class Page(HTMLParser):
    """The places in a page that links can lead to, and its own links."""

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.places.update(filter(None, (attributes.get("id"), attributes.get("name"))))
        self.links.update(filter(None, (attributes.get("href"), attributes.get("src"))))


def broken_links(folder: Path) -> list[str]:
    """
    :param folder: Folder of a built site
    :return: One line for each link that leads to nothing in the folder
    """
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = f"{path.relative_to(folder.resolve())}: {link}"
            if not target.exists():
                broken.append(f"{where}: there is no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                broken.append(f"{where}: there is no such place in the page")
    return broken


def check(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for line in broken_links(Path(app.outdir)):
            logger.warning(line)


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
