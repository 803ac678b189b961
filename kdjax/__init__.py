"""Exact, sharded knowledge distillation of language models in JAX.

Importing the package imports nothing else, so that the command-line programs can reject
a mistake before any slow import. Import what you need, such as ``kdjax.losses``,
``kdjax.models`` or ``kdjax.train``; docs/architecture.md describes all packages.
"""

__version__ = "0.1.0"
