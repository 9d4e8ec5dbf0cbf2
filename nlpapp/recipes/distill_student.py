"""The student of `nlpapp distill`, and what it minimises."""

from itertools import chain
from typing import TYPE_CHECKING, Any

from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.data.transfer_set import read_unlabeled
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import build_bilstm
from nlpapp.models.student_bert import (
    build_student_bert,
    keep_tokens,
    layer_map,
    leave_attention_whole,
    transformer_layers,
)
from nlpapp.models.teacher import Reader
from nlpapp.models.text_cnn import build_text_cnn
from nlpapp.models.word_embeddings import start_embeddings
from nlpapp.objectives.distillation import DistillationObjective
from nlpapp.objectives.layer_distillation import LayerLoss
from nlpapp.text.student_vocabulary import student_tokenizer
from nlpapp.training.fit import set_seed

if TYPE_CHECKING:
    from nlpapp.recipes.distill import Config


def build_student(config: "Config", sets: ClassificationSets, teacher: Reader) -> Reader:
    """Return the untrained student; its vocabulary is made of all texts but the augmented.

    Raises:
        ConfigError: options that the data or the teacher do not allow.
        DataError: as `read_unlabeled`.
    """
    if not sets.label_names and config.objective.teacher_loss == "kl":
        raise ConfigError(
            "the labels are scores, which have no kl: use objective.teacher_loss mse."
        )
    if not sets.label_names and config.objective.label_smoothing:
        raise ConfigError("the labels are scores: leave objective.label_smoothing out.")
    texts = [*sets.train.texts_a, *(sets.train.texts_b or ())]
    if config.vocabulary.kind != "teacher":
        for path in config.unlabeled_files:
            texts += chain(*read_unlabeled(path, pairs=sets.pairs))
    tokenizer = student_tokenizer(config.vocabulary, teacher.tokenizer, texts)
    set_seed(config.seed, "weights")
    outputs = list(range(len(teacher.outputs)))
    if config.architecture == "bert":
        model = build_student_bert(
            teacher.model,
            config.bert.layers,
            label_names=sets.label_names,
            outputs=teacher.outputs,
        )
        if tokenizer is not teacher.tokenizer:
            tokens = same_tokens(tokenizer, teacher.tokenizer)
            keep_tokens(model, tokens, pad_token_id=tokenizer.pad_token_id)
        return Reader(model=model, tokenizer=tokenizer, outputs=outputs)
    ends: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "label_names": sets.label_names,
        "siamese": sets.pairs,
    }
    if config.architecture == "bilstm":
        student: Any = build_bilstm(config.student, **ends)
    else:
        student = build_text_cnn(config.text_cnn, **ends)
    start_embeddings(
        student,
        config.embeddings,
        tokenizer=tokenizer,
        teacher=teacher.model,
        teacher_tokenizer=teacher.tokenizer,
    )
    return Reader(model=student, tokenizer=tokenizer, outputs=outputs)


def same_tokens(tokenizer: Any, teacher: Any) -> list[int]:
    """Return the teacher's id of each token of ``tokenizer``, whose tokens are some of its own."""
    vocabulary = tokenizer.get_vocab()
    known = teacher.get_vocab()
    return [known[token] for token in sorted(vocabulary, key=vocabulary.__getitem__)]


def build_objective(config: "Config", teacher: Reader, student: Reader) -> DistillationObjective:
    """Return what the student minimises; ``teacher`` shows its layers where they are asked for."""
    options = config.objective
    layers = None
    if options.uses_layers:
        models = (student.model, teacher.model)
        if options.attention_weight:
            for model in models:  # other implementations keep their maps to themselves
                model.set_attn_implementation("eager")
            leave_attention_whole(student.model)
        tokens = None
        if student.tokenizer is not teacher.tokenizer:
            tokens = same_tokens(student.tokenizer, teacher.tokenizer)
        layers = LayerLoss(
            teacher.model,
            layer_map(config.bert.layer_map, *(len(transformer_layers(m)) for m in models)),
            tokens=tokens,
            hidden_weight=options.hidden_weight,
            hidden_loss=options.hidden_loss,
            attention_weight=options.attention_weight,
            attention_loss=options.attention_loss,
        )
    return DistillationObjective(
        teacher_loss=options.teacher_loss,
        temperature=options.temperature,
        alpha=options.alpha,
        final_alpha=options.final_alpha,
        label_smoothing=options.label_smoothing,
        layers=layers,
    )
