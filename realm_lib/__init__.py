"""REALM: a reward for RLHF that combines a reward model's score with prompt-response similarity.

The public names, listed in the stub beside this file, are loaded on first use: ``import realm_lib`` costs nothing until
a model is needed.
"""

import importlib.metadata
import logging

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("realm-lib")

# peft, which transformers loads, loads bitsandbytes; on some CPUs that warns of a package for faster 4-bit products.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
