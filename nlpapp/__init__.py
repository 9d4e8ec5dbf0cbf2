"""nlpapp: from raw text to a small, fast, deployable language model."""

__version__ = "0.1.0"
