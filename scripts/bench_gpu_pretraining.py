"""python scripts/bench_gpu_pretraining.py runs benchmarks/gpu_pretraining.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    from benchmarks.gpu_pretraining import main

    main()
