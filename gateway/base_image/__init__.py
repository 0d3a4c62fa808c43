"""A request's base image: fetched or uploaded, decoded in a child process, fitted to a supported size."""
