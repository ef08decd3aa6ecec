"""What rl_zoo3's `push_to_hub` needs: names that moved in the hub's library, our commands in the card, no network."""

import importlib
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

# What a model card says of rl_zoo3, and what is true of an algorithm that rl_zoo3 does not know
COMMANDS = {"python -m rl_zoo3.": "sb3-reptile ", "pip install rl_zoo3": "pip install 'sb3-reptile[zoo]'"}


# The package has a function of the same name, which hides the module
metadata_module = importlib.import_module("huggingface_sb3.push_to_hub")


def _generate_metadata(*args: Any) -> dict[str, Any]:
    """What rl_zoo3 2.9 imports as ``generate_metadata``; later versions of the library have it by another name."""
    return metadata_module._generate_metadata(*args).to_dict()


class Hub(huggingface_hub.HfApi):
    """
    The hub, and what stands in for it where it cannot be reached or ``HF_HUB_OFFLINE=1`` keeps from trying: everything
    is written to the local folder as usual, and stays there.
    """

    ours = False
    _reached = True

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        try:
            return super().create_repo(repo_id, **kwargs)
        except HfHubHTTPError:  # it was reached, and refused
            raise
        # Its bases are the errors of the HTTP library in use, which changes between versions of huggingface_hub
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


def prepare(ours: bool) -> None:
    """
    Before ``rl_zoo3.push_to_hub`` is imported.

    :param ours: Whether the algorithm is one that rl_zoo3 does not know
    """
    if not hasattr(metadata_module, "generate_metadata"):
        metadata_module.generate_metadata = _generate_metadata  # type: ignore[attr-defined]
    Hub.ours = ours
    huggingface_hub.HfApi = Hub  # type: ignore[misc]
