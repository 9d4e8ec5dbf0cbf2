import numpy as np
import torch

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification import Examples
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.models.teacher import Reader
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.distill import Config
from nlpapp.recipes.distill_student import build_objective, build_student
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from tests.deployment.models import build_model, load_tokenizer

OFF = AugmentationConfig(n_iter=0)
BERT = {"architecture": "bert", "bert": StudentBertConfig(layers=[1])}
TRAIN = Examples(
    texts_a=["the cat", "the dog"], labels=np.array([0, 1]), label_names=("a", "b"), source="s"
)


def test_layers_are_compared_along_the_map():
    options = {"teacher": "teacher", "augmentation": OFF}
    plain = Config(output_dir="run", **options)
    student, teacher = (
        Reader(model=build_model("bert", num_hidden_layers=layers), tokenizer="t", outputs=[0, 1])
        for layers in (1, 2)
    )
    assert build_objective(plain, teacher, student).layers is None
    objective = DistillationConfig(attention_weight=0.5, attention_loss="mse")
    config = Config(output_dir="run", **options, **BERT, objective=objective)
    found = build_objective(config, teacher, student).layers
    assert found.layer_map == [2] and found.attention_weight == 0.5
    assert found.attention_loss == "mse" and found.tokens is None
    for reader in (student, teacher):
        assert reader.model.config._attn_implementation == "eager"
    attention = student.model.bert.encoder.layer[0].attention
    assert (attention.self.dropout.p, attention.output.dropout.p) == (0.0, 0.1)


def test_a_vocabulary_of_words_counts_unlabelled_texts_too(tiny_tokenizer_folder, tmp_path):
    (tmp_path / "more.txt").write_text("a bird flew\nbird , cat\n")
    sets = ClassificationSets(train=TRAIN, dev={}, test={}, metrics=())
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    teacher = Reader(model=None, tokenizer=tokenizer, outputs=[0, 1])
    found = []
    for more in (None, str(tmp_path / "more.txt")):
        config = Config(
            output_dir="run",
            teacher="teacher",
            unlabeled_file=more,
            student=BiLstmSizeConfig(embedding_size=4, hidden_size=3, classifier_size=3),
            vocabulary=StudentVocabularyConfig(kind="words"),
        )
        vocabulary = build_student(config, sets, teacher).tokenizer.get_vocab()
        found.append({word for word in vocabulary if word.isalpha()})
    assert found == [{"the"}, {"the", "cat", "bird"}]


def test_a_bert_student_of_fewer_tokens_reads_as_one_of_all(tiny_tokenizer_folder):
    sets = ClassificationSets(train=TRAIN, dev={}, test={}, metrics=())
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bert", labels={0: "a", 1: "b"}).eval()
    teacher = Reader(model=model, tokenizer=tokenizer, outputs=[0, 1])
    options = {"output_dir": "run", "teacher": "teacher", "augmentation": OFF, **BERT}
    layers = DistillationConfig(hidden_weight=1.0, attention_weight=1.0)
    losses, logits, sizes = [], [], []
    for kind in ("teacher", "pruned"):
        vocabulary = StudentVocabularyConfig(
            kind=kind, **({"min_frequency": 1} if kind == "pruned" else {})
        )
        config = Config(**options, vocabulary=vocabulary, objective=layers)
        student = build_student(config, sets, teacher)
        read = student.tokenizer(list(TRAIN.texts_a), return_tensors="pt")
        student.model.eval()
        objective = build_objective(config, teacher, student)
        batch = {**read, "labels": torch.tensor([0, 1]), "teacher_logits": torch.zeros(2, 2)}
        losses.append(objective(student.model, batch, objective.counts(batch)).loss)
        logits.append(student.model(**read).logits)
        sizes.append(student.model.config.vocab_size)
        assert student.model.get_input_embeddings().weight.shape[0] == sizes[-1]
    assert sizes[1] == len(student.tokenizer) < sizes[0]
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(losses[1], losses[0])
