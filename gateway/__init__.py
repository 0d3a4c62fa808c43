"""REST in front of Triton: checks requests, asks the ensemble, stores the picture, answers with its URL."""

import os

# With it gRPC prints a line whenever a decoder of base images starts; none of our forks goes on using gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
