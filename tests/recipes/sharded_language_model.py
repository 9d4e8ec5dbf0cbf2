"""Run under torchrun: train-lm with a model that FSDP2 cuts in pieces; see sharded_bert.py."""

import os
import sys

from nlpapp import cli
from nlpapp.training import fit
from tests.training.sharded_bert import LAUNCHED, sharding_accelerator

if __name__ == "__main__":
    os.environ.update(LAUNCHED | {"FSDP_TRANSFORMER_CLS_TO_WRAP": "TransformerXLLayer"})
    fit.Accelerator = sharding_accelerator
    sys.exit(cli.main(sys.argv[1:]))
