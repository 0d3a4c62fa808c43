"""Every layer of every component, derived from the configs of a checkpoint."""
