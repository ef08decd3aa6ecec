"""Examples in README and docs run and print what they promise; numbers about learning are in the results."""

import functools
import re
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ON_A_CLUSTER = pytest.mark.skip(reason="tests/vec_env/test_ray_cluster.py runs it, on a cluster")
EXAMPLES = [
    pytest.param(code, output, id=f"{page.name}-{number}", marks=ON_A_CLUSTER if "RayVecEnv" in code else [])
    for page in PAGES
    for number, (code, output) in enumerate(
        re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]


# Enough to run each line of an example that trains for long
SHORT = {
    "learn(20_000)": "learn(2_000)",
    "learn(6_000, callback=callback)": "learn(600, callback=callback)",
    "period=3_000, recurring=False": "period=300, recurring=False",
    "eval_freq=500, n_eval_episodes=5": "eval_freq=100, n_eval_episodes=1",
}


def test_what_is_shortened_is_in_the_examples():
    assert all(sum(long in example.values[0] for example in EXAMPLES) == 1 for long in SHORT)


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_the_example_runs_and_prints_what_it_says(code, output, tmp_path):
    if "sb3_reptile.sbx" in code:
        pytest.importorskip("sbx", reason="needs the extra sbx")
    script = tmp_path / "example.py"
    short = functools.reduce(lambda text, long: text.replace(long, SHORT[long]), SHORT, code)
    script.write_text(short, encoding="utf-8")
    result = run_python(script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    promised = re.findall(r"print\(.*\)  # .*: (-?[\d.]+)$", code, re.MULTILINE)
    printed = result.stdout.split("\n")
    if output:
        assert result.stdout == output
    for line, number in zip(printed, promised, strict=False):
        decimals = len(number.partition(".")[2])
        assert f"{float(line):.{decimals}f}" == number


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def numbers(text):
    """Numbers as written, with the interval that follows if there is one; without links and code."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|\*\*", " ", text)
    number = r"-?\d[\d,]*(?<!,)(?:\.\d+)?"
    return set(re.findall(rf"(?<![\w.]){number}(?: \({number} to {number}\))?(?!\w)", " ".join(text.split())))


def assert_numbers_are_from(part, of):
    assert numbers(part), "there is no number"
    known = (ROOT / of).read_text(encoding="utf-8")
    # Without intervals, too
    assert numbers(part) - numbers(known) - numbers(known.replace("(", "; ")) == set()


@pytest.mark.parametrize(
    ("page", "begins", "ends", "of"),
    [
        ("README.md", "![Scores", "## Who needs it", "docs/explanation/results.md"),
        ("README.md", "**It is faster", "With the RL Zoo (", "benchmarks/results/training.md"),
        (
            "docs/explanation/choice.md",
            "## When decay does not help",
            "## Half-life",
            "docs/explanation/results_one_step.md",
        ),
        ("docs/explanation/choice.md", "## The defaults of", "## Comparisons with", "docs/explanation/results.md"),
        ("docs/explanation/choice.md", "## The default decay", "", "docs/explanation/results_one_step.md"),
        (
            "docs/explanation/applications.md",
            "* 28.7 (",
            "In the last third of training, `ReptileDQN`",
            "benchmarks/results/recommender_limit.md",
        ),
        ("docs/explanation/auto.md", "**A false alarm that", "**With λ-returns", "docs/explanation/results.md"),
        ("docs/explanation/auto.md", "**Learning**", "**Speed**", "docs/explanation/results_one_step.md"),
        ("docs/explanation/cost.md", "## Training", "## SAC and TD3", "benchmarks/results/training.md"),
        ("docs/explanation/cost.md", "## SAC and TD3", "## Sampling", "benchmarks/results/training.md"),
        (
            "docs/explanation/cluster.md",
            "| duration | environments | |",
            "* **It pays**",
            "benchmarks/results/vec_env.md",
        ),
        ("docs/explanation/meta_learning.md", "| navigation", "* **Joint", "benchmarks/results/meta.md"),
        ("docs/explanation/meta_learning.md", "* **Adaptation", "[benchmarks", "benchmarks/results/meta.md"),
        ("docs/explanation/meta_learning.md", "| sine waves", "* **Reptile", "benchmarks/results/meta.md"),
        ("docs/explanation/transfer.md", "Networks that learned", "Freezing layers", "benchmarks/results/transfer.md"),
        ("docs/explanation/auto.md", "**Speed**", "", "benchmarks/results/training.md"),
        ("docs/explanation/cost.md", "| 1,000,000 transitions", "These ratios", "benchmarks/results/sampling.md"),
        ("docs/explanation/cost.md", "A replay buffer of", "All results:", "benchmarks/results/checkpoint.md"),
        (
            "docs/explanation/promises.md",
            "| default decay",
            "`python benchmarks/upstream",
            "benchmarks/results/upstream_tests.md",
        ),
    ],
)
def test_numbers_are_those_of_the_results(page, begins, ends, of):
    text = (ROOT / page).read_text(encoding="utf-8")
    part = text[text.index(begins) : text.index(ends) if ends else None]
    assert_numbers_are_from(part, of)


def test_results_of_applications_are_those_of_the_table():
    page = (ROOT / "docs" / "explanation" / "applications.md").read_text(encoding="utf-8")
    for section in page.split("\n## ")[1:]:
        # With the table that may follow
        results = re.findall(r"^\*\*Result\.\*\*.*?\n\n(?:\|.*?\n\n)?", f"{section}\n\n", re.DOTALL | re.MULTILINE)
        assert results, f"no result of {section.splitlines()[0]}"
        for result in results:
            assert_numbers_are_from(result, "benchmarks/results/applications.md")
