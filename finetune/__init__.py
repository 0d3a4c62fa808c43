"""pictures + captions -> tiny checkpoints and their evaluation."""

import os

# transformers warns, while it is imported, of picture processors that nothing here uses.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
