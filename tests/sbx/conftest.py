"""Without SBX, its tests are not collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sbx") else ["test_*.py"]
