"""Pushing a trained model folder to the Hugging Face Hub, as an option."""

import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from nlpapp.errors import ConfigError

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Where a trained model goes besides the disk."""

    repository: str | None = None
    """Repository of the Hugging Face Hub, as owner/name; when absent, nothing is pushed."""
    private: bool = True
    """Whether a repository that has to be created is private."""


def check_hub(config: HubConfig, api: HfApi | None = None) -> None:
    """Create the repository, where it is not there yet, so that a push cannot fail for its lack.

    Call it on the main process before training.

    Raises:
        ConfigError: the name is none, or the Hub lets this user not write to the repository.
    """
    if config.repository is None:
        return
    try:
        validate_repo_id(config.repository)
    except HFValidationError as error:
        raise ConfigError(f"hub.repository is {config.repository!r}: {error}") from error
    try:
        # `whoami` first: it is what says that there is no token.
        (api or HfApi()).whoami()
        (api or HfApi()).create_repo(config.repository, private=config.private, exist_ok=True)
    except Exception as error:  # Of the token, of the connection, of the rights.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"cannot push to {config.repository} (hub.repository): {reason} "
            "Log in with `hf auth login` or set HF_TOKEN, check the name, or leave the option out."
        ) from error


def push_folder(config: HubConfig, folder: Path, api: HfApi | None = None) -> str | None:
    """Upload a model folder and return its address; None where there is nothing to do.

    Call it on the main process when everything is on the disk. A push that fails is a warning with
    the command that repeats it: the run is complete without it.
    """
    if config.repository is None:
        return None
    try:
        commit = (api or HfApi()).upload_folder(
            repo_id=config.repository,
            folder_path=str(folder),
            commit_message="Model trained with nlpapp",
        )
    except Exception as error:  # Whatever it is, the model is safe on the disk.
        logger.warning(
            "the model was not pushed to the Hub: %s. It is in %s; push it with: hf upload %s %s",
            *(error, folder, config.repository, folder),
        )
        return None
    logger.info("pushed the model to %s", commit.repo_url)
    return str(commit.repo_url)
