import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from nlpapp.deployment import serve_command
from nlpapp.deployment.serve_command import main
from nlpapp.deployment.serve_process import available_cores
from nlpapp.errors import ConfigError


def test_options_become_settings(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(serve_command, "open_models", lambda *_, **__: {})
    monkeypatch.setattr(serve_command, "bind", lambda host, port: (host, port))
    monkeypatch.setattr(serve_command, "serve", lambda *arguments: found.append(arguments))
    assert main(["a", "b=c", "--port", "81", "--workers", "1", "--precision", "int8"]) == 0
    ((settings, address),) = found
    assert address == ("127.0.0.1", 81)
    assert settings.models == ["a", "b=c"]
    assert (settings.workers, settings.threads) == (1, available_cores() + 1)
    assert settings.precision == "int8"


@pytest.mark.parametrize("name", ["workers", "threads", "drain-seconds", "stop-seconds"])
def test_options_below_zero_are_refused(name, capsys):
    assert main(["a", f"--{name}", "-1"]) == ConfigError.exit_code
    assert f"{name.replace('-', '_')} is -1" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_ends_with_its_name(tmp_path, capsys):
    assert main([str(tmp_path), "--port", "0"]) == 1
    assert f"{tmp_path} is not a bundle" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_the_rest_of_the_package():
    program = """
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                parts = name.split(".")
                if parts[0] in ("torch", "transformers", "onnx", "jsonargparse", "yaml"):
                    raise ImportError(f"{name} is blocked")
                if parts[0] == "nlpapp" and len(parts) > 1:
                    # What deploy/Dockerfile copies.
                    assert parts[1] in ("disk", "errors", "seeding", "deployment"), name

        sys.meta_path.insert(0, Block())
        from nlpapp.deployment import serve, serve_command
        print(serve_command.share_cores(1, 0)[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == available_cores() + 1
