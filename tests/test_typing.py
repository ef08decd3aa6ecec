"""What a type checker shows to users: a script under `mypy --strict`, with lines that must be refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "typing" / "user_script.py"


def test_mypy_accepts_a_users_script_and_reports_its_mistakes():
    pytest.importorskip("mypy", reason="needs the extra dev")
    cache = ROOT / ".mypy_cache" / "strict"  # so that only the first run is slow
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={cache}",
        "--no-pretty",
        "--follow-imports=silent",
    ]
    result = subprocess.run([*command, str(SCRIPT)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    lines = SCRIPT.read_text().splitlines()
    wanted = {(n, found[1]) for n, line in enumerate(lines, 1) if (found := re.search(r"# error: ([a-z-]+)$", line))}
    reported = re.findall(r"^(\S+?):(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.MULTILINE)
    assert {path for path, _, _ in reported} == {str(SCRIPT.relative_to(ROOT))}, result.stdout
    assert {(int(number), code) for _, number, code in reported} == wanted, result.stdout
