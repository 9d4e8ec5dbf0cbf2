"""Pushing to the Hub, with a stand-in for its interface."""

import logging

import pytest

from nlpapp.errors import ConfigError
from nlpapp.training.hub import HubConfig, check_hub, push_folder


class FakeApi:
    def __init__(self, *, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def _call(self, *call):
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def whoami(self):
        self._call("whoami")

    def create_repo(self, repository, *, private, exist_ok):
        self._call("create", repository, private, exist_ok)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self._call("upload", repo_id, folder_path)
        return type("Commit", (), {"repo_url": f"https://hub/{repo_id}"})


MINE = HubConfig(repository="me/bert")


def test_nothing_without_a_repository(tmp_path):
    api = FakeApi()
    check_hub(HubConfig(), api)
    assert push_folder(HubConfig(), tmp_path, api) is None and not api.calls


def test_the_repository_is_made_before_training_and_filled_after(tmp_path):
    api = FakeApi()
    check_hub(MINE, api)
    assert push_folder(MINE, tmp_path, api) == "https://hub/me/bert"
    create, upload = ("create", "me/bert", True, True), ("upload", "me/bert", str(tmp_path))
    assert api.calls == [("whoami",), create, upload]


def test_no_token_stops_before_training():
    api = FakeApi(error=OSError("Token is required\nbut no token was found."))
    with pytest.raises(ConfigError, match=r"me/bert .*Token is required .*hf auth login"):
        check_hub(MINE, api)
    with pytest.raises(ConfigError, match=r"hub.repository is 'a b/c'"):
        check_hub(HubConfig(repository="a b/c"), FakeApi())


def test_the_real_interface_says_that_it_is_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot push to me/bert"):
        check_hub(MINE)


def test_a_failed_push_is_a_warning(tmp_path, caplog):
    logging.getLogger("nlpapp").propagate = True
    api = FakeApi(error=OSError("connection lost"))
    assert push_folder(MINE, tmp_path, api) is None
    assert "connection lost" in caplog.text
    assert f"hf upload me/bert {tmp_path}" in caplog.text
