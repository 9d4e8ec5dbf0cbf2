"""Which options of `nlpapp distill` go together."""

from typing import TYPE_CHECKING

from nlpapp.errors import ConfigError

if TYPE_CHECKING:
    from nlpapp.recipes.distill import Config

SIZES = {"student": "bilstm", "text_cnn": "text_cnn", "bert": "bert"}
"""Option with the size of an architecture -> the architecture."""


def check_options(config: "Config") -> None:
    """Raise ConfigError for options that do not go together."""
    for name, architecture in SIZES.items():
        given = getattr(config, name)
        if architecture != config.architecture and given != type(given)():
            raise ConfigError(
                f"{name} describes a student of architecture {architecture}, and architecture is "
                f"{config.architecture}: leave {name} out, or change architecture."
            )
    if config.evaluation_batch_size < 1:
        raise ConfigError(
            f"evaluation_batch_size is {config.evaluation_batch_size}; it must be 1 or more."
        )
    if config.teachers and config.size != type(config.size)():
        raise ConfigError("size is of a random teacher: leave it out, or leave teacher out.")
    if config.tokenizer is not None and len(config.teachers) > 1:
        raise ConfigError(
            "tokenizer is one, and there are several teachers: leave it out, and each reads with "
            "the tokenizer in its folder."
        )
    if config.objective.alpha == 1 and (config.augmentation.n_iter or config.unlabeled_file):
        raise ConfigError(
            "objective.alpha 1 learns from labels alone, and texts from augmentation or "
            "unlabeled_file have none: set augmentation.n_iter 0, and no unlabeled_file."
        )
    if config.objective.final_alpha is not None and config.training.max_hours is not None:
        raise ConfigError("final_alpha goes by steps: leave training.max_hours out.")
    if config.objective.final_alpha is not None and config.pruning.max_steps:
        raise ConfigError(
            "final_alpha ends with the training: leave pruning.max_steps out, the steps after it."
        )
    is_bert = config.architecture == "bert"
    if is_bert and (config.embeddings != "random" or config.vocabulary.kind == "words"):
        raise ConfigError(
            "a student of architecture bert keeps its teacher's embeddings, of all pieces or of "
            "those in its texts: leave embeddings out; vocabulary.kind is teacher or pruned."
        )
    if config.objective.uses_layers and not is_bert:
        raise ConfigError(
            "objective.hidden_weight and attention_weight compare layers of transformers: "
            "choose architecture bert, or leave them out."
        )
    if config.bert.layer_map and not config.objective.uses_layers:
        raise ConfigError(
            "bert.layer_map says which layers are compared, and none is: give "
            "objective.hidden_weight or attention_weight, or leave it out."
        )
    if config.objective.label_smoothing and config.objective.teacher_alone:
        raise ConfigError(
            f"objective.label_smoothing is {config.objective.label_smoothing}, but alpha 0 never "
            "asks the labels: raise alpha or final_alpha, or leave label_smoothing out."
        )
