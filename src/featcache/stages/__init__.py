"""The work of each stage, as functions free of Luigi: read files, compute, write files, return one line about the result.

Each takes the `Project`, which knows where artifacts are and which keys they carry, and reports to a `Progress`.
Keras is imported only inside the functions that compute.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
