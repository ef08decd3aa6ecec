"""Links from a page to files of the repository outside of docs/ lead to the repository's site."""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\]\((\.\./[^)#\s]*)")


def lead_to_the_repository(app: Any, docname: str, source: list[str]) -> None:
    docs = Path(app.srcdir).resolve()
    page = Path(app.env.doc2path(docname))

    def address(link: re.Match) -> str:
        target = (page.parent / link[1]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return link[0]  # a page, or an error that Sphinx reports
        kind = "tree" if target.is_dir() else "blob"
        return f"]({app.config.repository}/{kind}/main/{target.relative_to(docs.parent).as_posix()}"

    source[0] = LINK.sub(address, source[0])


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("repository", None, "env", types=(str,))
    app.connect("source-read", lead_to_the_repository)
    return {"parallel_read_safe": True}
