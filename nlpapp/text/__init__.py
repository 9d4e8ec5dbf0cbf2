"""Strings to ids: corpora, sentences, tokenizers, vocabularies. No torch in this room."""
