#!/usr/bin/env bash
# What 96 minutes of pretraining on one CPU core are worth: a mini BERT pretrained in two phases, fine-tuned on SST-2 (its first 10,000 rows),
# MRPC and CoLA, beside the same model fine-tuned from random weights and from the counted word vectors alone, five seeds each.
#
#   scripts/pretraining_worth.sh <data folder>
#
# The data folder holds
#   corpora/en/imdb_unsup_docs.txt    50,000 reviews, a sentence a line, a blank line between documents
#   corpora/en/novels/*.txt           public-domain novels
#   glue_data/{SST-2,MRPC,CoLA}       the official files
# docs/measurements.md has the figures; everything is written to runs/worth. A stage that is complete is passed over, an interrupted one goes on.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/pretraining_worth.sh <data folder>}")
cd "$(dirname "$0")/.."
out=runs/worth  # Where configs/pretrain/cpu.yaml finds it.
novels="$data/corpora/en/novels"
mkdir -p "$out"

# Every fiftieth review is held out, with two novels of an author who is not in the training text.
awk -v RS= -v ORS='\n\n' 'NR % 50 != 0' "$data/corpora/en/imdb_unsup_docs.txt" > "$out/reviews.txt"
awk -v RS= -v ORS='\n\n' 'NR % 50 == 0' "$data/corpora/en/imdb_unsup_docs.txt" > "$out/held-out.txt"
train="[\"$out/reviews.txt\", \"$novels/[A-F]*.txt\"]"
heldout="[\"$out/held-out.txt\", \"$novels/Tr*.txt\"]"

nlpapp train-tokenizer --inputs "$train" --vocab_size 8000 --max_bytes 20000000 --output_dir "$out/tokenizer"
tokenizer="$out/tokenizer/model"
phases='[{name: phase1, max_seq_length: 128}, {name: phase2, max_seq_length: 512}]'
nlpapp make-data --inputs "$train" --tokenizer "$tokenizer" --dupe_factor 1 --masking dynamic --phases "$phases" \
  --output_dir "$out/data"
nlpapp make-data --inputs "$heldout" --tokenizer "$tokenizer" --dupe_factor 1 --phases "$phases" --output_dir "$out/held-out"

nlpapp pretrain --config configs/pretrain/cpu.yaml
# The same start, and no training: one step at a rate of 0.
nlpapp pretrain --config configs/pretrain/cpu.yaml --phases null --data "$out/data/phase1" --training.max_steps 1 \
  --training.optimizer.learning_rate 0 --output_dir "$out/vectors"

mkdir -p "$out/glue_data/SST-2"
cp -r "$data/glue_data/MRPC" "$data/glue_data/CoLA" "$out/glue_data/"
cp "$data/glue_data/SST-2/"{dev,test}.tsv "$out/glue_data/SST-2/"
head -n 10001 "$data/glue_data/SST-2/train.tsv" > "$out/glue_data/SST-2/train.tsv"
glue=(--data_dir "$out/glue_data" --tasks '[sst2, mrpc, cola]' --seeds 5 --dropout 0.1
  --training.num_epochs 3 --training.optimizer.learning_rate 3e-4 --training.keep_checkpoints 1 --training.tensorboard false
  --workers 2)
nlpapp glue "${glue[@]}" --model "$out/bert/model" --output_dir "$out/glue"
nlpapp glue "${glue[@]}" --model "$out/bert/model" --from_scratch true --output_dir "$out/glue-random-weights"
nlpapp glue "${glue[@]}" --model "$out/vectors/model" --output_dir "$out/glue-vectors"
nlpapp report "$out/glue" "$out/glue-random-weights" "$out/glue-vectors" --output "$out/report.html"
