"""accelerate launch scripts/ablation.py --config ... runs nlpapp ablation."""

import sys

if __name__ == "__main__":
    # Python looks here first, and evaluate.py would hide the library of that name.
    sys.path.pop(0)
    from nlpapp.cli import main

    sys.exit(main(["ablation", *sys.argv[1:]]))
