"""
Python programs in processes of their own that start fast: they are forked from one that has imported PyTorch and SB3.

They see nothing of the test's process, and this package and its extras are not imported before they import them.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTED = ["stable_baselines3", "sb3_contrib", "torch._dynamo"]
CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
# Processes of SB3's SubprocVecEnv are forked from the same one
CONTEXT.set_forkserver_preload(IMPORTED)


def _run(arguments, cwd, env, output):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for descriptor, path in enumerate(output, start=1):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), descriptor)
    program, *sys.argv[1:] = arguments
    try:
        if program == "-m":
            module = sys.argv.pop(1)
            sys.path.insert(0, cwd)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = program
            sys.path.insert(0, os.path.dirname(program))
            runpy.run_path(program, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which the end of a forked process leaves out


def run_python(*arguments, cwd, env=None, timeout=300):
    """What ``subprocess.run([sys.executable, *arguments], ...)`` returns, for a script or ``-m`` and a module."""
    arguments = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        output = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_run, args=(arguments, str(cwd), {**os.environ, **(env or {})}, output))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in output)
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)
