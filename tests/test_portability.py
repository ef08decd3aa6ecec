"""The package works on systems other than Linux, as far as that can be tested on Linux."""

import ast
import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_reptile.evaluation import runner
from sb3_reptile.evaluation.records import append, read, sole_writer
from sb3_reptile.evaluation.runner import Job, train_all
from sb3_reptile.replay.memmap import ScratchFiles

PACKAGE = Path(runner.__file__).parent.parent

# In a C locale: imports every module of the package without the modules that only POSIX has. Other packages, which are
# portable in their own ways, are imported before. Then it reads a text
SCRIPT = """
import importlib, pathlib, sys, warnings
import gymnasium, matplotlib, sb3_contrib, stable_baselines3, tqdm
package, page = map(pathlib.Path, sys.argv[1:])
warnings.filterwarnings("error", category=EncodingWarning, module="sb3_reptile")
MISSING = {"fcntl", "grp", "pwd", "resource", "termios"}
class OnlyPosix:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if name in MISSING and str(package) in frame.f_code.co_filename:
            raise ModuleNotFoundError(f"{frame.f_code.co_filename} imports {name}")
for name in MISSING:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, OnlyPosix())
for path in sorted(package.rglob("*.py")):
    # A program, and parts that need extras
    if path.name in ("__main__.py", "ns_gym.py", "rooms.py", "highway.py", "sbx.py"):
        continue
    name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
from sb3_reptile.evaluation.templates import PageTemplate
print(ascii(PageTemplate(page).fill("page", value=1)))
"""


def test_modules_need_neither_posix_nor_a_locale_with_utf_8(tmp_path):
    (tmp_path / "page.md").write_text("<!-- page -->\nλ = $value\n", encoding="utf-8")
    options = ["-X", "warn_default_encoding", "-X", "utf8=0", "-c", SCRIPT, PACKAGE, tmp_path / "page.md"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, *options], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2_000:]
    assert result.stdout.startswith("'\\u03bb = 1")


def test_text_files_do_not_have_the_encoding_of_the_locale():
    def has_none(call):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        # open(path, mode), or path.open(mode)
        modes = [ast.unparse(mode) for mode in call.args[isinstance(call.func, ast.Name) :]]
        is_text = name in ("read_text", "write_text") or (name == "open" and modes in ([], ["'r'"], ["'w'"], ["'a'"]))
        return is_text and not any(keyword.arg == "encoding" for keyword in call.keywords)

    assert has_none(ast.parse("path.write_text(page)").body[0].value)
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and has_none(node)
    ]
    assert found == []


def test_runs_are_trained_where_event_loops_have_no_signal_handlers(tmp_path, monkeypatch):
    """As on Windows."""

    def refuse(self, number, callback, *args):
        raise NotImplementedError

    monkeypatch.setattr(asyncio.unix_events._UnixSelectorEventLoop, "add_signal_handler", refuse)
    record = {"task": "it", "seed": 0, "setup": "x"}
    jobs = [Job("it", ["-c", f"print({json.dumps(record)!r})"], steps=1)]
    assert train_all(jobs, tmp_path) == []
    assert read(tmp_path, ["it"], lambda record: record["seed"], lambda run: "x") == {0: record}


def test_a_record_does_not_continue_a_torn_line(tmp_path):
    path = tmp_path / "it.jsonl"
    path.write_bytes(b'{"task": "it", "se')
    for seed in (0, 1):
        append({"task": "it", "seed": seed}, tmp_path)
    lines = path.read_bytes().split(b"\n")
    assert lines == [b'{"task": "it", "se', b'{"task":"it","seed":0}', b'{"task":"it","seed":1}', b""]


def test_records_have_one_writer_and_leave_no_lock_behind(tmp_path):
    script = "import sys, pathlib; from sb3_reptile.evaluation.records import sole_writer\n"
    script += "with sole_writer(pathlib.Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", script, tmp_path]
    with sole_writer(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "another process is writing records to" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_at_once_where_files_may_have_holes(tmp_path, monkeypatch):
    """As on macOS: a page that finds no room later would end the process."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with pytest.raises(OSError, match="No space left on device: 1125899906842624 bytes are needed") as error:
        ScratchFiles(tmp_path).zeros((2**50,), np.dtype(np.uint8))
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    array = ScratchFiles(tmp_path).zeros((1_000, 1), np.dtype(np.uint8))
    array[:] = 1
    assert array.sum() == 1_000
