"""REST in front of Triton: checks requests, asks the ensemble, stores the picture, answers with its URL."""
