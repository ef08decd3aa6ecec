"""The documentation site: its extensions, the completeness of its reference, its tutorials."""

import ast
import importlib
import io
import re
from pathlib import Path

import pytest

from sb3_reptile import storage
from sb3_reptile.zoo import __main__ as zoo
from sb3_reptile.zoo.arguments import describe_additional_arguments

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


def read(path):
    return path.read_text(encoding="utf-8")


@pytest.fixture
def extension(monkeypatch):
    """Imports an extension of docs/."""
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    return importlib.import_module


# ---- API


def test_every_public_module_has_a_page(extension):
    modules = extension("public_api").public_names()
    assert {"sb3_reptile", "sb3_reptile.replay", "sb3_reptile.callbacks", "sb3_reptile.storage"} <= modules.keys()
    for module in modules:
        assert f".. public-api:: {module}\n" in read(DOCS / "reference" / "api" / f"{module}.md")


def test_names_are_documented_once_and_missing_ones_are_reported(extension, tmp_path):
    from sphinx.application import Sphinx

    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['sphinx.ext.autodoc', 'public_api']", encoding="utf-8")
    (source / "index.rst").write_text(
        "API\n===\n\n.. public-api:: sb3_reptile.storage\n\n.. public-api:: sb3_reptile.reptile_dqn\n"
    )
    warnings = io.StringIO()
    app = Sphinx(source, source, tmp_path / "out", tmp_path / "out", "dummy", status=None, warning=warnings)
    app.build()
    documented = set(app.env.domaindata["py"]["objects"])
    assert {f"sb3_reptile.storage.{name}" for name in storage.__all__} <= documented
    assert "sb3_reptile.reptile_dqn.CnnPolicy" in documented
    # Its home is the package, whose page is missing here
    assert "sb3_reptile.reptile_dqn.ReptileDQN" not in documented
    assert "sb3_reptile.ReptileDQN is public and not documented" in warnings.getvalue()
    assert "sb3_reptile.replay has public names and no page" in warnings.getvalue()
    assert "sb3_reptile.storage has" not in warnings.getvalue()


# ---- Links


def test_broken_links_of_built_pages_are_found(extension, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="sub/page.html#here"></a><a href="#top"></a><a href="https://example.org/x"></a>'
        '<a href="sub/gone.html"></a><a href="sub/page.html#gone"></a><img src="gone.png"><a href="#gone"></a>'
    )
    (tmp_path / "sub" / "page.html").write_text('<p id="here"></p><a href="../index.html#top"></a>')
    broken = extension("built_links").broken_links(tmp_path)
    assert [line.split(": ")[1] for line in broken] == ["#gone", "gone.png", "sub/gone.html", "sub/page.html#gone"]


def headings(page):
    """The places that links can lead to, as GitHub and MyST name them."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", read(page), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_to_headings(page):
    if "_build" in page.parts:
        return
    for path, place in re.findall(r"\]\((?!http)([^)#\s]*\.md)?#([^)\s]+)\)", read(page)):
        target = page.parent / path if path else page
        assert place in headings(target), f"{path}#{place}"


# ---- Reference


def test_every_log_key_is_in_the_reference():
    page = read(DOCS / "reference" / "log_keys.md")
    keys = set()
    for path in (ROOT / "sb3_reptile").rglob("*.py"):
        texts = (node.value for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.Constant))
        keys |= {text for text in texts if isinstance(text, str) and re.fullmatch(r"(replay|eval)/[a-z_0-9]+", text)}
    assert "replay/volume" in keys
    written_by_sb3 = {key for key in keys if key.startswith("eval/mean") or key == "eval/success_rate"}
    for key in keys - written_by_sb3:
        assert f"`{key}" in page, key


def test_every_error_and_command_is_in_the_reference():
    errors = read(DOCS / "reference" / "errors.md")
    for name in set(storage.__all__) - {"StorageError"}:
        assert f"| `{name}` |" in errors
    commands = read(DOCS / "reference" / "commands.md")
    for name in zoo.COMMANDS:
        assert f"| `{name}` |" in commands
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in read(path)}
    assert set(re.findall(r"`python benchmarks/(\w+\.py)`", commands)) == scripts
    for argument in describe_additional_arguments().split():
        if argument.startswith("--"):
            assert f"`{argument} " in commands, argument


def test_the_help_of_a_command_is_that_of_the_reference():
    commands = read(DOCS / "reference" / "commands.md")
    for name, command in zoo.COMMANDS.items():
        assert f"| `{name}` | {command.what} |" in commands.replace("`all_plots` saved", "all_plots saved")


# What a reader looks for, and the sentence of the linked place that answers it
ANSWERS = {
    "How do I switch it on?": "Replace the class, keep the arguments",
    "Which replay for my task?": "| it changes, or it might, and you train DQN | `ReptileDQN(...)` as it is |",
    "How do I see that it works?": "`replay/mean_age` is far below half of the buffer",
    "How do I evaluate under drift?": "`DriftEvalCallback` takes the arguments of `EvalCallback`",
    "What does it cost?": "| speed of training with `ReptileDQN` |",
    "When should I not use it?": "**The task never changes.**",
}


@pytest.mark.parametrize("question", ANSWERS)
def test_the_first_page_leads_to_the_answer(question):
    (row,) = re.findall(rf"^\| {re.escape(question)} \|(.*)\|$", read(DOCS / "index.md"), re.MULTILINE)
    (link,) = re.findall(r"\]\(([^)#]+)[^)]*\)", row)
    assert ANSWERS[question] in read(DOCS / link)


@pytest.mark.parametrize("question", ANSWERS)
def test_the_answer_is_in_the_line_that_is_written_down(question):
    row = rf"^\| {re.escape(question)} \| \[.*\]\((.*)\) \| (\d+) \|$"
    ((page, line),) = re.findall(row, read(ROOT / "CONTRIBUTING.md"), re.MULTILINE)
    lines = read(ROOT / page).splitlines()
    (found,) = [number for number, text in enumerate(lines, start=1) if ANSWERS[question] in text]
    assert found == int(line), f"{page}: write the line {found} into CONTRIBUTING.md"


# ---- Tutorials

# Enough to run each cell
SHORT = {
    "from_dqn_to_decayed_replay": "PERIOD = 600\nSEEDS = 1",
    "a_drifting_task": "PERIOD = 300\nSTEPS = 600",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `docs`")
    pytest.importorskip("ipykernel", reason="needs the extra `docs`")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = SHORT[path.stem]
    notebook.metadata["kernelspec"]["name"] = "python3"
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert any(output.output_type == "display_data" for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_committed_with_its_output_and_opens_in_colab(path):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    badge = f"colab.research.google.com/github/sb3-reptile/sb3-reptile/blob/main/{path.relative_to(ROOT).as_posix()}"
    assert badge in notebook.cells[1].source
    for target in re.findall(r"\]\((?!http)([^)#]+)", "\n".join(cell.source for cell in notebook.cells)):
        assert (path.parent / target).exists(), target


def test_there_are_two_tutorials():
    assert {path.stem for path in NOTEBOOKS} == SHORT.keys()
