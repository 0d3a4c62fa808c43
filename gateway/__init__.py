"""REST in front of Triton: checks requests, asks the ensemble, stores the picture, answers with its URL."""

import os

# With fork support gRPC prints a line whenever a decoder of base images starts, which uses no gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
