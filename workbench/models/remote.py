"""Checkpoints of the hub by name: from the local cache first, over the network only when it is allowed and there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.errors import ModelError
from workbench.models.hub import first_line, nearest

#: What a checkpoint needs to run; weights in other formats and code stay where they are.
FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md"]
SECONDS_TO_ANSWER = 5.0


def fetch(name: str, known: Sequence[str]) -> Path:
    """Return the folder of a hub model, fetched if need be.

    Raises:
        ModelError: no such model, no network, or no safetensors in it; one sentence, with what is available.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _complete(Path(snapshot_download(name, local_files_only=True)), name)
    except HFValidationError:
        raise not_found(name, known, "that is neither a folder nor the form of a hub name") from None
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    if constants.HF_HUB_OFFLINE:
        raise not_found(name, known, "HF_HUB_OFFLINE is set and the local hub cache does not have it")
    return _download(name, known)


def _download(name: str, known: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    with _quiet_hub():
        try:
            HfApi().model_info(name, timeout=SECONDS_TO_ANSWER)  # asks once, where a download would ask again and again
            return _complete(Path(snapshot_download(name, allow_patterns=FILES)), name)
        except HfHubHTTPError as error:
            raise not_found(name, known, f"the hub says: {first_line(error)}") from None
        except ModelError:
            raise
        except Exception as error:  # the hub's client changes its HTTP library, and with it the errors of a lost network
            raise not_found(name, known, f"the hub cannot be reached: {first_line(error)}") from None


def _complete(folder: Path, name: str) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"Model {name!r}: expected safetensors weights, got none in {folder}. Choose a revision that has them; other "
            "formats can run code when they are read."
        )
    return folder


def not_found(name: str, known: Sequence[str], reason: str) -> ModelError:
    """Return the one sentence for a model that is not there."""
    return ModelError(
        f"Model {name!r} is not here ({reason}): available are {', '.join(known)}, any local folder with a checkpoint, and "
        f"with a network any causal language model of the hub by its name.{nearest(name, known)}"
    )


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's own retry notes off the reader's page."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
