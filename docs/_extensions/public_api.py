"""
The directive `public-api`: every public name of a module, with its docstring.

A name is public if it is in the module's `__all__`. It is documented once, on the page of the module with the shortest
name that has it; the pages of other modules link there. The build warns of public modules without a page.
"""

import importlib
import inspect
import pkgutil
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.util import logging

logger = logging.getLogger(__name__)
PACKAGE = "sb3_reptile"

#: What the public constants are, which have no docstrings
CONSTANTS = {
    "sb3_reptile.__version__": "Version of the package.",
    "sb3_reptile.envs.STATIONARY_TASKS": "The registered tasks without drift, as in TASKS.",
    "sb3_reptile.envs.TASKS": "For each task, the function that makes it and its time limit (steps, or None).",
}


def public_names() -> dict[str, list[str]]:
    """
    :return: Public names by module, the package first; without modules that act when they are imported, those that
        keep former names for old files, and SBX's algorithms, which need JAX: their how-to page describes them
    """
    package = importlib.import_module(PACKAGE)
    found = [PACKAGE, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."))]
    modules: dict[str, list[str]] = {}
    for name in found:
        last = name.rpartition(".")[2]
        if last in ("__main__", "dqn", "registration", "sbx") or last.startswith("former_"):
            continue
        names = getattr(importlib.import_module(name), "__all__", None)
        if names is not None:
            modules[name] = sorted(names, key=str.lower)
    return modules


def home_of(module: str, name: str, modules: dict[str, list[str]]) -> str:
    """The module on whose page an object is documented."""
    thing = getattr(importlib.import_module(module), name)
    homes = [
        other
        for other, names in modules.items()
        if name in names and getattr(importlib.import_module(other), name) is thing
    ]
    return min(homes, key=lambda other: (other.count("."), other))


def entry(module: str, name: str) -> list[str]:
    """The lines of reStructuredText that document a name."""
    thing, full = getattr(importlib.import_module(module), name), f"{module}.{name}"
    if inspect.isclass(thing):
        is_error = issubclass(thing, BaseException)
        options = ["   :show-inheritance:"] if is_error else ["   :show-inheritance:", "   :members:"]
        return [f".. {'autoexception' if is_error else 'autoclass'}:: {full}", *options, ""]
    if callable(thing):
        return [f".. autofunction:: {full}", ""]
    if full not in CONSTANTS:
        logger.warning(f"{full} is a public constant: say what it is in {__file__}")
    return [f".. py:data:: {name}", "", f"   {CONSTANTS.get(full, '')}", ""]


class PublicApi(Directive):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        env = self.state.document.settings.env
        if not hasattr(env, "modules_with_pages"):
            env.modules_with_pages = set()
        env.modules_with_pages.add(module)
        modules = public_names()
        lines = [f".. py:module:: {module}", ""]
        elsewhere = []
        for name in modules[module]:
            home = home_of(module, name, modules)
            if home == module:
                lines += entry(module, name)
            else:
                elsewhere.append(f":py:obj:`~{home}.{name}`")
        if elsewhere:
            lines += [f"Also in this module: {', '.join(elsewhere)}.", ""]
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(lines, source=module), 0, container)
        return container.children


def check(app: Any, env: Any) -> None:
    """Warn of public modules without a page and of public names without an entry."""
    modules = public_names()
    for module in modules.keys() - getattr(env, "modules_with_pages", set()):
        logger.warning(f"{module} has public names and no page: add docs/reference/api/{module}.md")
    documented = env.domaindata["py"]["objects"]
    for module, names in modules.items():
        for name in names:
            if f"{home_of(module, name, modules)}.{name}" not in documented:
                logger.warning(f"{module}.{name} is public and not documented")


def leave_out_internal_bases(app: Any, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    public = {
        id(getattr(importlib.import_module(module), known))
        for module, names in public_names().items()
        for known in names
    }
    bases[:] = [
        base for base in bases if not getattr(base, "__module__", "").startswith(PACKAGE) or id(base) in public
    ] or [object]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("public-api", PublicApi)
    app.connect("autodoc-process-bases", leave_out_internal_bases)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": False}
