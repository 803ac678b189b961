"""Exact, sharded knowledge distillation of language models in JAX.

Importing the package imports nothing else, so that the command lines can refuse a
mistake before a second of import time is spent. Import what you need:
``kdjax.losses``, ``kdjax.models``, ``kdjax.step``.
"""
