"""Small random classifiers of every kind that can be exported."""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import nlpapp.models  # noqa: F401  registers the BiLSTM

SIZES = {
    "vocab_size": 80,
    "hidden_size": 16,
    "embedding_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "dim": 16,
    "hidden_dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "classifier_size": 10,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
KEYS = {
    "bilstm": ("vocab_size", "embedding_size", "hidden_size", "classifier_size"),
    "text_cnn": ("vocab_size", "embedding_size", "classifier_size"),
    "distilbert": ("vocab_size", "dim", "hidden_dim", "n_layers", "n_heads"),
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
EXTRA = {
    "deberta": RELATIVE,
    "deberta-v2": {**RELATIVE, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    # Short windows, so that what lies outside of one shows.
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2}
    | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}
LABELS = {0: "bad", 1: "fine", 2: "good"}


def build_model(kind: str, *, labels=LABELS, **options):
    torch.manual_seed(0)
    keys = KEYS.get(
        kind, [key for key in SIZES if key not in ("dim", "hidden_dim", "n_layers", "n_heads")]
    )
    sizes = {key: SIZES[key] for key in keys} | {"max_position_embeddings": 48, "pad_token_id": 0}
    if kind in ("bilstm", "text_cnn"):
        del sizes["max_position_embeddings"]
    if kind in ("roberta", "xlm-roberta", "camembert", "mpnet"):  # positions start at 2
        sizes |= {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 50}
    names = {name: index for index, name in labels.items()}
    config = AutoConfig.for_model(
        kind, **(sizes | EXTRA.get(kind, {}) | options), id2label=labels, label2id=names
    )
    return _spread(AutoModelForSequenceClassification.from_config(config))


def build_encoder(kind):
    """The bare encoder of a random classifier."""
    classifier = build_model(kind)
    return _spread(AutoModel.from_config(classifier.config))


def _spread(model):
    with torch.no_grad():  # random heads of deviation 0.02 would hide differences
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model.eval()


def load_tokenizer(folder, *, token_types=True):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.model_input_names = names if token_types else ["input_ids", "attention_mask"]
    return tokenizer


def build_language_model(**options):
    from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 32, "mem_len": 7}
    config = TransformerXLConfig(**(sizes | {"initializer_range": 0.3} | options))
    return TransformerXLLMHeadModel(config).eval()
