"""A client of the Hugging Face hub for ``push_to_hub``: our commands in the model card, and no network needed."""

import importlib
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

# Replacements in the model card of an algorithm that rl_zoo3 does not have
COMMANDS = {"python -m rl_zoo3.": "sb3-reptile ", "pip install rl_zoo3": "pip install 'sb3-reptile[zoo]'"}

# The package has a function of the same name, which hides the module
metadata_module = importlib.import_module("huggingface_sb3.push_to_hub")


def generate_metadata(*args: Any) -> dict[str, Any]:
    """
    :param args: Those of huggingface_sb3's function
    :return: The metadata of a model card, as the ``generate_metadata`` that rl_zoo3 2.9 imports returned it
    """
    return metadata_module._generate_metadata(*args).to_dict()


class Hub(huggingface_hub.HfApi):
    """
    The hub's client. If the hub cannot be reached, or with ``HF_HUB_OFFLINE=1``, it writes everything to the local
    folder as usual and uploads nothing.
    """

    #: Whether the model card names our commands
    ours = False
    _reached = True

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        try:
            return super().create_repo(repo_id, **kwargs)
        except HfHubHTTPError:  # the hub was reached and refused
            raise
        # The base classes are the errors of the HTTP library, which depends on the version of huggingface_hub
        except (OfflineModeIsEnabled, *HfHubHTTPError.__bases__) as error:  # type: ignore[misc]
            self._reached = False
            print(f"The hub is not reached ({type(error).__name__}): the model and its card stay on this machine.")
            return repo_id

    def snapshot_download(self, repo_id: str, *, local_dir: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if self._reached:
            return super().snapshot_download(repo_id, local_dir=local_dir, **kwargs)
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        return local_dir

    def upload_folder(self, *, repo_id: str, folder_path: Any, **kwargs: Any) -> Any:
        card = Path(folder_path) / "README.md"
        if self.ours:
            text = card.read_text(encoding="utf-8")
            for theirs, ours in COMMANDS.items():
                text = text.replace(theirs, ours)
            card.write_text(text, encoding="utf-8")
        if self._reached:
            return super().upload_folder(repo_id=repo_id, folder_path=folder_path, **kwargs)
        print(f"Nothing was uploaded. The model card is {card}")
        sys.exit()
