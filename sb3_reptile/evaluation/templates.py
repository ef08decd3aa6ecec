"""Pages of Markdown, filled in from templates."""

import re
from collections.abc import Iterable
from pathlib import Path
from string import Template


class PageTemplate:
    """
    A file of Markdown with placeholders ``$name``, divided into parts by lines ``<!-- part -->``.

    :param path: Path of the file
    """

    def __init__(self, path: Path) -> None:
        _, *parts = re.split(r"<!-- (\w+) -->\n", path.read_text(encoding="utf-8"))
        self.parts = dict(zip(parts[::2], map(Template, parts[1::2]), strict=True))

    def fill(self, part: str, /, **values: str | int | float | Iterable[str]) -> str:
        """
        :param part: Name of the part
        :param values: Values of its placeholders: texts, numbers or lines
        :return: The part, filled in, without empty lines at the ends and around empty values
        """
        texts = {
            name: str(value) if isinstance(value, str | int | float) else "\n".join(value)
            for name, value in values.items()
        }
        filled = self.parts[part].substitute({name: text.strip("\n") for name, text in texts.items()})
        return re.sub(r"\n{3,}", "\n\n", filled).strip("\n")


def join(parts: Iterable[str]) -> str:
    """
    :param parts: Paragraphs, tables or sections; empty ones are left out
    :return: All of them, separated by empty lines
    """
    return "\n\n".join(part for part in parts if part)
