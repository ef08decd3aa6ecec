"""What a user gets: the files in the wheel, the version, the demo."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import sb3_reptile
from tests.processes import run_python

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.*"), ROOT / "CITATION.cff"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PINS = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_wheel_holds_the_package_its_types_and_the_zoo_configs(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("sb3_reptile-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sb3_reptile").rglob("*.py")}
    assert modules <= names
    assert "sb3_reptile/py.typed" in names
    assert {f"sb3_reptile/{path.relative_to(ROOT)}" for path in (ROOT / "zoo_configs").iterdir()} <= names
    metadata = f"sb3_reptile-{sb3_reptile.__version__}.dist-info"
    assert {f"{metadata}/METADATA", f"{metadata}/licenses/LICENSE"} <= names


def test_the_public_names_are_imported_without_extras():
    extras = ("matplotlib", "numba", "optuna", "pandas", "pettingzoo", "ray", "rl_zoo3", "rliable", "scipy", "yaml")
    code = f"""
import sys
import stable_baselines3, sb3_contrib
before = set(sys.modules)
import sb3_reptile
assert all(hasattr(sb3_reptile, name) for name in sb3_reptile.__all__)
print(*({set(extras)!r} & (set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_every_decay_is_exported():
    from sb3_reptile.replay.decay import DECAYS

    assert {decay.__name__ for decay in DECAYS.values() if decay.__module__.startswith("sb3_reptile.")} <= set(
        sb3_reptile.__all__
    )


def test_the_changelog_describes_this_version():
    assert f"## {sb3_reptile.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_all_files_name_the_same_repository():
    repository = PROJECT["urls"]["Repository"]
    assert all(url.startswith(repository) for url in PROJECT["urls"].values())
    for path in TEXTS:
        named = set(re.findall(r"https://github\.com/[\w.-]+/sb3-reptile\b", path.read_text(encoding="utf-8")))
        assert named <= {repository}, path
    # Without the one place that is always there, the loop would compare nothing
    assert repository in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_commits_are_checked_by_the_tools_that_lint_uses():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    pins = [pin.split(";")[0].split("==") for hook in hooks for pin in hook["additional_dependencies"]]
    assert {"ruff", "codespell", "pytest"} <= {name for name, _ in pins}
    assert all(PINS[name] == version for name, version in pins)


def test_every_declared_python_is_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    declared = [line.rpartition(" ")[2] for line in PROJECT["classifiers"]]
    assert tested == [version for version in declared if re.fullmatch(r"3\.\d+", version)]
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_workflows_run_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        for targets in re.findall(r"run: make (.*)", text):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
        for name in re.findall(r"tests/[\w/.]+", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_what_make_test_leaves_out_has_its_own_command_and_job():
    files = ("Makefile", ".github/workflows/ci.yml", "CONTRIBUTING.md")
    makefile, jobs, page = ((ROOT / name).read_text(encoding="utf-8") for name in files)
    (selected,) = re.findall(r'^test:.*\n.* -m "(.*)"$', makefile, re.MULTILINE)
    markers = [marker.split(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert selected == " and ".join(f"not {marker}" for marker in markers)
    for marker in markers:
        assert re.search(rf"^test-{marker}:.*\n.*pytest.* (-m {marker}|tests/{marker})$", makefile, re.MULTILINE)
        assert f"run: make test-{marker}\n" in jobs
        assert f"| `make test-{marker}` |" in page


def test_the_demo_writes_its_picture_and_records(tmp_path):
    command = [ROOT / "examples" / "demo.py", "--steps", "2000", "--seeds", "1", "--output", tmp_path]
    result = run_python(*command, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "ReptileDQN  before the swap" in result.stdout
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    header, *records = (tmp_path / "learning_curves.csv").read_text(encoding="utf-8").splitlines()
    assert header == "method,seed,step,return"
    assert {record.split(",")[0] for record in records} == {"ReptileDQN", "DQN"}
    # Every step is counted: the returns of CartPole are its steps, but for the last, unfinished episode
    for method in ("ReptileDQN", "DQN"):
        assert 1_400 < sum(float(r.split(",")[3]) for r in records if r.startswith(method + ",")) < 2_100


def test_the_resumable_example_goes_on_where_it_was(tmp_path):
    outputs = []
    for steps in (2_100, 2_500):
        command = [ROOT / "examples" / "resumable.py", "--steps", str(steps), "--path", tmp_path / "checkpoints"]
        outputs.append(run_python(*command, cwd=ROOT).stdout)
    assert outputs == ["2100 steps are done\n", "continues from step 2100\n2500 steps are done\n"]


BOTH = [f"{role}/{file}" for role in ("predator", "prey") for file in ("model.zip", "monitor.csv")]


@pytest.mark.parametrize(
    ("example", "steps", "files"),
    [("shared_policy", 2_100, ["model.zip", "monitor.csv"]), ("opponents", 5_000, BOTH)],
)
def test_the_examples_with_several_agents_keep_what_they_learnt_and_film_it(example, steps, files, tmp_path):
    pytest.importorskip("mpe2", reason="needs the extra multi-agent")
    command = [ROOT / "examples" / f"{example}.py", "--steps", str(steps), "--log", tmp_path / "log"]
    result = run_python(*command, "--gif", tmp_path / "film.gif", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "return per episode" in result.stdout
    assert sorted(str(path.relative_to(tmp_path / "log")) for path in (tmp_path / "log").rglob("*.*")) == files
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")
