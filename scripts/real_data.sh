#!/usr/bin/env bash
# From raw text to a deployable student on real data, on a CPU.
#
#   scripts/real_data.sh <data folder> [output folder]
#
# The data folder holds
#   corpora/en/imdb_unsup_docs.txt    50,000 reviews, a sentence a line, a blank line between documents
#   corpora/en/novels/*.txt           70 public-domain novels
#   glue_data/{SST-2,MRPC}            the official files
#   lm/wikitext-2/wiki.{train,valid,test}.tokens
# docs/measurements.md has the figures and the time of each stage. A stage that is complete is passed over.
set -euo pipefail
data=${1:?usage: scripts/real_data.sh <data folder> [output folder]}
out=${2:-runs/real}
novels="$data/corpora/en/novels"
train="[\"$data/corpora/en/imdb_unsup_docs.txt\", \"$novels/[A-K]*.txt\"]"
heldout="[\"$novels/Tr*.txt\"]"
scratch="--from_scratch true"

step() { echo; echo "== $1"; shift; SECONDS=0; nlpapp "$@"; echo "== $SECONDS s"; }

step "WordPiece from 20 MB of the corpus" \
  train-tokenizer --inputs "$train" --vocab_size 16000 --max_bytes 20000000 --output_dir "$out/tokenizer"
tokenizer="$out/tokenizer/model"

step "pairs and masks from all of it" \
  make-data --inputs "$train" --tokenizer "$tokenizer" --dupe_factor 1 --output_dir "$out/data"
step "and from novels that are not in it" \
  make-data --inputs "$heldout" --tokenizer "$tokenizer" --dupe_factor 1 --output_dir "$out/held-out"

step "a BERT of 2 layers, 128 wide" \
  pretrain --data "$out/data" --evaluation_data "$out/held-out" --tokenizer "$tokenizer" \
  --output_dir "$out/bert" --size.num_layers 2 --size.hidden_size 128 --size.num_heads 2 \
  --size.dropout 0 --size.initializer_range 0.056 --size.similarity_start true --batch_size 64 \
  --training.max_steps 1800 --training.evaluate_every 600 \
  --training.optimizer.learning_rate 2e-3 --training.optimizer.beta2 0.98

for task in sst2 mrpc; do
  epochs=3 batch=64; [ $task = mrpc ] && epochs=8 batch=16
  common=(--task $task --data_dir "$data/glue_data" --model "$out/bert/model" --batch_size $batch
    --training.num_epochs $epochs --training.optimizer.learning_rate 3e-4)
  step "fine-tune on $task" finetune "${common[@]}" --output_dir "$out/$task"
  step "the same from random weights" finetune "${common[@]}" $scratch --output_dir "$out/$task-from-scratch"
done

student=(--task sst2 --data_dir "$data/glue_data" --teacher "$out/sst2/model" --embeddings teacher
  --student.embedding_size 128 --student.hidden_size 100 --student.pooling max --student.dropout 0.3 --batch_size 64
  --training.optimizer.learning_rate 1e-3)
step "distil SST-2 into a BiLSTM" distill "${student[@]}" \
  --augmentation.n_iter 3 --training.num_epochs 2 --output_dir "$out/student"
step "the same BiLSTM on labels alone, as many updates" distill "${student[@]}" \
  --objective.alpha 1 --augmentation.n_iter 0 --training.num_epochs 8 \
  --output_dir "$out/student-hard-labels"

step "Transformer-XL on WikiText-2" train-lm --config configs/train-lm/wikitext2.yaml \
  --train_file "$data/lm/wikitext-2/wiki.train.tokens" --valid_file "$data/lm/wikitext-2/wiki.valid.tokens" \
  --test_file "$data/lm/wikitext-2/wiki.test.tokens" --training.num_epochs 1 \
  --output_dir "$out/language-model"

step "export the teacher" export --model "$out/sst2/model" --output_dir "$out/teacher-bundle"
step "export the student" export --model "$out/student/model" --output_dir "$out/student-bundle"
step "time them on the dev set" benchmark --task sst2 --data_dir "$data/glue_data" \
  --models "[\"$out/teacher-bundle/bundle\", \"$out/student-bundle/bundle\"]" --output_dir "$out/benchmark"
