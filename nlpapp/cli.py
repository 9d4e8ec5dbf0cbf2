"""The command line: a table of commands, each a recipe with a Config and a run function."""

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from nlpapp import __version__
from nlpapp.errors import ConfigError, NlpappError, nearest

COMMANDS = {
    "quickstart": "the whole chain on a sample corpus, nothing downloaded",
    "train-tokenizer": "train a WordPiece tokenizer from text",
    "make-data": "turn text into BERT pretraining data",
    "convert-data": "convert pretraining data from and to TFRecord files",
    "pretrain": "pretrain a BERT on that data",
    "finetune": "fine-tune a classifier on a GLUE task or your own file",
    "glue": "fine-tune and score a model on many GLUE tasks and seeds",
    "evaluate": "score any classifier on a labelled file",
    "predict": "label the rows of a file with any classifier",
    "multitask": "train one encoder on several tasks, from labels and teachers",
    "augment": "make new texts for distillation from the texts of a set",
    "distill": "train a small student from a classifier",
    "ablation": "say what each part of a distillation is worth and costs",
    "train-lm": "train a Transformer-XL language model",
    "evaluate-lm": "score a language model on a text",
    "generate": "continue a prompt with a language model",
    "import-checkpoint": "take over a Transformer-XL of its authors or of transformers 4",
    "export": "turn a model into a checked bundle that runs without PyTorch",
    "benchmark": "time models and bundles on this machine",
    "serve": "answer requests for exported models over HTTP",
    "extract-features": "turn texts into vectors with any encoder",
    "attention": "show what attention does with a text, as a page and pictures",
    "report": "write a page about a run, or compare several",
    "doctor": "check what this machine has and can do",
}

WITHOUT_VALUE = ("-h", "--help", "--print_config")
"""Options that stand by themselves; all others have a value."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def recipe(command: str) -> Any:
    """Import and return the recipe module of ``command``.

    Raises:
        ConfigError: there is no such command; the message has the nearest one.
    """
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS)
        raise ConfigError(f"unknown command '{command}'.{hint} Commands: {', '.join(COMMANDS)}")
    return importlib.import_module("nlpapp.recipes." + command.replace("-", "_"))


def build_parser(command: str) -> ArgumentParser:
    """Return the parser of ``command``: one option for each field of its Config."""
    config = recipe(command).Config
    parser = ArgumentParser(
        prog=f"nlpapp {command}",
        description=(config.__doc__ or "").strip(),
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_class_arguments(config, fail_untyped=True)
    return parser


def parse(command: str, arguments: Sequence[str]) -> Any:
    """Return the Config that ``arguments`` (options and ``--config`` files) describe.

    Raises:
        ConfigError: an option is unknown, missing, or has a value of the wrong form.
    """
    parser = build_parser(command)
    options = _option_names(parser)
    arguments = _with_option(list(arguments), getattr(recipe(command), "POSITIONAL", None))
    _check_names(arguments, options)
    try:
        namespace = parser.parse_args(arguments)
        namespace.pop("config", None)
        settings = parser.instantiate_classes(namespace)
    except argparse.ArgumentError as error:
        message = str(error.message or error).removeprefix(f"nlpapp {command}: ")
        raise ConfigError(f"{message} (see nlpapp {command} --help)") from error
    return recipe(command).Config(**_fields(settings))


def _with_option(arguments: list[str], name: str | None) -> list[str]:
    """Return ``arguments`` with those that stand by themselves as the list of option ``name``.

    A recipe with ``POSITIONAL = "runs"`` takes `A B` for `--runs '["A", "B"]'`; None: no others do.
    """
    if name is None:
        return arguments
    alone: list[str] = []
    options: list[str] = []
    left = iter(arguments)
    for argument in left:
        if not argument.startswith("-"):
            alone.append(argument)
            continue
        options.append(argument)
        if "=" not in argument and argument not in WITHOUT_VALUE:
            options += [value for value in [next(left, None)] if value is not None]
    if alone and any(option.partition("=")[0].rstrip("+") == f"--{name}" for option in options):
        raise ConfigError(f"give {' '.join(alone)} by themselves or with --{name}, not both.")
    # Last, because later values win over those of a file.
    return [*options, *([f"--{name}", json.dumps(alone)] if alone else [])]


def _fields(settings: Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(settings).items() if not key.startswith("__")}


def _option_names(parser: ArgumentParser) -> list[str]:
    flags = [flag for action in parser._actions for flag in action.option_strings]
    return [flag[2:] for flag in flags if flag.startswith("--")]


def _check_names(arguments: list[str], options: list[str]) -> None:
    """Refuse unknown options, on the command line and in YAML files, with the nearest known one."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        if name[2:].rstrip("+") not in options:
            raise ConfigError(f"unknown option '{name}'.{nearest(name[2:], options)}")
        if name == "--config":
            path = Path(value or "".join(arguments[index + 1 : index + 2]))
            for key in _yaml_keys(_read_yaml(path)):
                # A nested section is known by its members: 'training' by 'training.max_steps'.
                if key not in options and not any(o.startswith(key + ".") for o in options):
                    raise ConfigError(f"{path}: unknown key '{key}'.{nearest(key, options)}")


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        hint = nearest(path.name, [entry.name for entry in folder.glob("*.y*ml")])
        raise ConfigError(f"there is no configuration file {path}.{hint}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, found {type(settings).__name__}")
    return settings or {}


def _yaml_keys(settings: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in settings.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _yaml_keys(value, f"{prefix}{key}.")
    return keys


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"nlpapp {__version__}: from raw text to a small, fast, deployable language model\n\n"
        f"usage: nlpapp <command> [--config file.yaml] [--section.key value ...]\n\n{rows}\n\n"
        "nlpapp <command> --help lists its options; --print_config prints the resolved run.\n"
        "First time here? nlpapp quickstart"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (data, training), 2 (options), 128 + signal."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, *options = arguments
    logging.getLogger("nlpapp").setLevel(logging.INFO)
    try:
        recipe(command).run(parse(command, options))
    except NlpappError as error:
        print(f"nlpapp {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"nlpapp {command}: interrupted; finished stages stay in place", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    return 0
