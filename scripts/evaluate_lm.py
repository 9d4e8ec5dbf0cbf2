"""accelerate launch scripts/evaluate_lm.py --config ... runs nlpapp evaluate-lm."""

import sys

if __name__ == "__main__":
    # Python looks here first, and evaluate.py would hide the library of that name.
    sys.path.pop(0)
    from nlpapp.cli import main

    sys.exit(main(["evaluate-lm", *sys.argv[1:]]))
