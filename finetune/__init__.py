"""pictures + captions -> tiny checkpoints and their evaluation."""

import os

# While it is imported, transformers warns of picture processors that nothing here uses.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
